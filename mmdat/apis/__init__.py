"""What the command-line tools call."""

from mmdat.stack import FOR_DETECTION, check_stack

check_stack(FOR_DETECTION)

from .cli import command_line, parse_run_args  # noqa: E402  after the check
from .test import test  # noqa: E402
from .train import train  # noqa: E402

__all__ = ['command_line', 'parse_run_args', 'test', 'train']
