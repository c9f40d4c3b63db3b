"""What the command-line tools call."""

from mmdat.stack import require

require('mmengine', 'mmcv', 'matplotlib')

from .cli import command_line  # noqa: E402  after the check
from .predict import predict, write_predictions  # noqa: E402
from .test import test  # noqa: E402
from .train import train  # noqa: E402
from .visualize import write_attention  # noqa: E402

__all__ = ['command_line', 'predict', 'test', 'train', 'write_attention', 'write_predictions']
