"""How a command-line tool ends."""
import sys
from collections.abc import Callable

from mmdat.errors import UserError


def command_line(main: Callable[[], None]) -> None:
    """Run a tool: a mistake of the user ends in one sentence and status 1, without a traceback."""
    try:
        main()
    except UserError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
