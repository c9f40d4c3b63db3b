"""The configs in configs/, each loaded once for all tests of a process."""

import copy
import functools
import os
from pathlib import Path

from mmengine.config import Config

CONFIGS = Path(__file__).parents[2] / 'configs'
NAMES = sorted(path.stem for path in CONFIGS.glob('*.py'))


@functools.cache
def _load_once(name: str, data_roots: tuple[tuple[str, str], ...]) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


def load(name: str) -> Config:
    """Return a copy of the config of that name, to change at will."""
    roots = {key: value for key, value in os.environ.items() if key.endswith('_ROOT')}
    return copy.deepcopy(_load_once(name, tuple(sorted(roots.items()))))
