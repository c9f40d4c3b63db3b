"""Put names in the place of classes in configs in pure Python, so that all is found by name."""

import inspect
from collections.abc import MutableMapping
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string

from .config_keys import SUPPRESSIONS
from .config_tree import items, value_at
from .folders import DATA_OF_SCOPE
from .mmengine_private import imported_names

# Packages whose classes a registry finds by name without an import, as a dump needs it.
PACKAGES = ('mmdat', 'mmengine', 'mmcv', 'torch', *DATA_OF_SCOPE)
ROOTS = [value for value in vars(mmengine_registry).values() if isinstance(value, Registry)]


def name_classes(cfg: Config) -> None:
    """Make a config that imports its classes, or a dump of one, one that names them.

    Such a config has ``default_scope = None``: its scope becomes the toolbox of the model's class.
    A class of another package, or that is not registered, stays as it is.
    """
    for name in imported_names(cfg):
        cfg.pop(name, None)
    if cfg.get('default_scope') is None:
        for base in getattr(_imported(value_at(cfg, 'model.type')), '__mro__', ()):
            package = base.__module__.partition('.')[0]
            if package in DATA_OF_SCOPE:
                cfg.default_scope = package
                break
    _name_types(cfg, cfg.get('default_scope'))


def _name_types(value: Any, scope: str | None) -> None:
    for key, item in list(items(value)):
        is_type = key in ('type', 'constructor') and isinstance(value, MutableMapping)
        package = str(getattr(item, '__module__', item)).partition('.')[0]
        if is_type and package in PACKAGES and (name := _registered_name(_imported(item), scope)):
            value[key] = name  # without one it stays lazy, to be dumped
        _name_types(item, scope)


def _imported(item: Any) -> Any:
    """Import what a type names by module and name; anything else is returned as it is."""
    return get_object_from_string(item) if isinstance(item, str) and '.' in item else item


def _registered_name(kind: Any, scope: str | None) -> str | None:
    """The name by which a class, or a suppression of mmcv, is found; None if there is none."""
    if inspect.isfunction(kind) and kind.__module__.startswith('mmcv.'):
        return kind.__name__ if kind.__name__ in SUPPRESSIONS else None
    if not inspect.isclass(kind):
        return None
    name, package = kind.__name__, kind.__module__.partition('.')[0]
    for root in ROOTS:
        if (root.get(f'{scope}.{name}') or root.get(name)) is kind:
            return name
        if package in root.children and root.children[package].get(name) is kind:
            return f'{package}.{name}'
    return None
