"""The configs in configs/, each loaded once for all tests of a process."""

import copy
import functools
from pathlib import Path

from mmengine.config import Config

CONFIGS = Path(__file__).parents[2] / 'configs'
NAMES = sorted(path.stem for path in CONFIGS.glob('*.py'))


@functools.cache
def _load_once(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


def load(name: str) -> Config:
    """Return a copy of the config of that name, to change at will.

    Environment variables with data roots are read once too: a test that sets them loads the file.
    """
    return copy.deepcopy(_load_once(name))
