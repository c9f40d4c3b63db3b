"""What the command-line tools call."""

from mmdat.stack import require

require('mmengine', 'mmcv', 'mmdet')

from .command_line import command_line, parse_run_args  # noqa: E402  after the check
from .launch import test, train  # noqa: E402

__all__ = ['command_line', 'parse_run_args', 'test', 'train']
