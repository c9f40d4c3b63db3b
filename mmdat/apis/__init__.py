"""What the command-line tools call."""
from .command_line import command_line, parse_run_args
from .launch import test, train

__all__ = ['command_line', 'parse_run_args', 'test', 'train']
