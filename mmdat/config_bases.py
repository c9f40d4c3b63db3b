"""Let configs build on those of mmdat: ``_base_ = 'mmdat::mask_rcnn_dat_pp_t_coco.py'``.

mmengine 0.10 takes such names of OpenMMLab's packages alone, demands a folder in them, and looks
all types of such a base up in its package, where a toolbox's are not found. For each base of a
toolbox it parses all model cards of the toolbox, which takes half a second and finds nothing; and
it asks for packages by their names on PyPI, which those of OneDL's builds are not.
"""

import contextlib
import functools
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import check_file_exist

from .errors import UserError, suggest

PREFIX = 'mmdat::'
CONFIGS = Path(__file__).parent / '.mim' / 'configs'


def config_path(name: str) -> str:
    """Path of a config of mmdat, as named in ``_base_``, such as ``'mmdat::dat_t_in1k.py'``.

    Raises:
        UserError: If there is none of that name; it suggests one.
    """
    path = CONFIGS / name.removeprefix(PREFIX)
    if not path.is_file():
        names = [PREFIX + path.name for path in CONFIGS.glob('*.py')]
        raise UserError(f'there is no config {name!r}: {suggest(name, names)}')
    return str(path)


def patch_config() -> None:
    """Let mmengine find bases of mmdat by their name, and those of a toolbox beside its module."""
    # mmengine.hub looks up the package mmsegmentation, else a module of the name given here.
    with contextlib.suppress(PackageNotFoundError):
        version('onedl-mmsegmentation')
        MODULE2PACKAGE['mmseg'] = 'mmseg'
    original = Config._get_cfg_path

    @functools.wraps(original)
    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(PREFIX):
            return config_path(cfg_path), None
        scope, _, name = cfg_path.partition('::')
        module = find_spec(scope) if scope in MODULE2PACKAGE else None
        if module is None or module.origin is None:
            return original(cfg_path, filename)
        path = str(Path(module.origin).parent / '.mim' / 'configs' / name)
        check_file_exist(path)
        return path, scope

    Config._get_cfg_path = staticmethod(get_cfg_path)
