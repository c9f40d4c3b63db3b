"""What the command-line tools call."""
from .command_line import command_line
from .launch import test, train

__all__ = ['command_line', 'test', 'train']
