"""The command ``mmdat``, also as ``python -m mmdat``."""

import sys


def main() -> None:
    """Run ``mmdat NAME ...``; a missing or unsupported package is told in one sentence."""
    try:
        from mmdat import commands
    except ImportError as error:
        sys.exit(f'error: {error}')
    commands.main()


if __name__ == '__main__':
    main()
