"""What the command-line tools share: flags of a run, and how a tool ends."""
import argparse
import os
import sys
from collections.abc import Callable

from mmengine.config import DictAction

from mmdat.errors import UserError


def parse_run_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line of a tool that runs a config, with the flags that all of them have."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='values to put into the config, such as train_cfg.max_epochs=1')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help='set by torch.distributed.launch')
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def command_line(main: Callable[[], None]) -> None:
    """Run a tool: a mistake of the user ends in one sentence and status 1, without a traceback."""
    try:
        main()
    except UserError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
