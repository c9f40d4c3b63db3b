"""Find the keys of a config that its variables went into: only those count once it is read."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdat.errors import UserError, Warn, enumerate_names

from .config_keys import RUNNER_KEYS, names_read
from .config_tree import paths, value_at


def check_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Refuse to change a variable of a config whose value is in other keys already.

    Args:
        options: Values to put into it, by dotted key (``--cfg-options``).
    """
    for key in options:
        name, _, rest = key.partition('.')
        if name not in cfg or _is_read(name, cfg):
            continue
        rest = f'.{rest}' if rest else ''
        found = list(_places(name, _uses(cfg.text, cfg)))
        if not found:  # as in a dump of another config, which has values alone
            namesakes = chain(paths(cfg, name), paths(cfg, name.split('_')[-1]))
            found = [(place, True) for place in namesakes if _is_read(place.split('.')[0], cfg)]
        # A config may have put something else in such a place since, or nothing.
        found = [x for x in found if value_at(cfg, x[0]) is not None]
        equal = [x for x in found if not x[1] or value_at(cfg, x[0]) == cfg[name]]
        places = [f'{place}{rest}' if is_whole else place for place, is_whole in equal or found]
        if name == 'test_pipeline' and rest:
            places += paths(
                cfg.get('tta_pipeline'), key.split('.')[-1], value_at(cfg, key), 'tta_pipeline.'
            )
        raise UserError(
            f"'{key}' in --cfg-options changes a variable, which has no effect once the config is "
            f'read: {_instead(places)}'
        )


def check_variables(cfg: Config, warn: Warn) -> None:
    """Warn of variables that a config sets after its base has used them, which has no effect."""
    if not cfg.filename.endswith('.py'):
        return
    own = Path(cfg.filename).read_text(encoding='utf-8')
    read = names_read(own)
    entries = [path for path, _ in _entries(own)]
    uses = _uses(cfg.text.removesuffix(own), cfg)
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(path.split('.')[0] for path in entries):
        if name in read or name not in cfg or _is_read(name, cfg):
            continue
        places = [place for place, _ in _places(name, uses)]
        if any(value_at(cfg, place) == cfg[name] for place in places):
            continue
        if places := [place for place in places if not _is_set(place, entries)]:
            found[name] = places
    if found:
        warn(
            f'config {cfg.filename} sets {enumerate_names(found)}, which has no effect, since its '
            f'base has used the value before: {_instead(chain(*found.values()))}'
        )


def _is_read(name: str, cfg: Config) -> bool:
    """Whether a run reads a top-level key of a config; any other is a variable."""
    if name == 'data_preprocessor':  # the model's own goes before it
        return 'data_preprocessor' not in (cfg.get('model') or {})
    if name == 'test_pipeline':  # predictions are made by it if there is no data loader
        return not (cfg.get('test_dataloader') or cfg.get('val_dataloader'))
    return name in RUNNER_KEYS and name != 'vis_backends'


def _instead(places: Iterable[str]) -> str:
    places = list(dict.fromkeys(places))
    return f'set {enumerate_names(places)} instead' if places else 'leave it out'


def _is_set(place: str, entries: list[str]) -> bool:
    """Whether one of the dotted keys is, holds or is part of that at ``place``."""
    return any(f'{x}.'.startswith(f'{place}.') or place.startswith(f'{x}.') for x in entries)


Uses = dict[str, list[tuple[str, bool]]]


def _uses(text: str, cfg: Config) -> Uses:
    """Variable -> dotted keys whose values have it, and whether it is all that they are.

    Args:
        text: Python files, each behind a line with its path, as in ``Config.text``.
        cfg: The config; keys that it does not have are left out.
    """
    uses: Uses = defaultdict(list)
    for path, node in _entries(re.sub(r'^/.*\.py$', '', text, flags=re.MULTILINE)):
        if value_at(cfg, path) is None:
            continue
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute):
                uses[part.attr].append((path, part is node))
            elif isinstance(part, ast.Name):
                uses[part.id].append((path, part is node))
    return uses


def _places(name: str, uses: Uses, seen: tuple[str, ...] = ()) -> Iterator[tuple[str, bool]]:
    """Yield the dotted keys that a run reads and a variable is in, also by way of others."""
    for path, is_whole in uses.get(name, ()):
        top, _, rest = path.partition('.')
        if top in RUNNER_KEYS:
            yield path, is_whole
        if top in (name, *seen):
            continue
        for place, is_top in _places(top, uses, (name, *seen)):
            yield f'{place}.{rest}'.rstrip('.') if is_top else place, is_whole and is_top


def _entries(text: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield the values that Python code assigns, also in lists and dicts, with dotted keys."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:  # a base in JSON or YAML
        return
    for node in nodes:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield from _parts(node.value, target.id)


def _parts(node: ast.AST, path: str) -> Iterator[tuple[str, ast.AST]]:
    inner: dict[Any, ast.AST] = {}
    if isinstance(node, ast.Set) and len(node.elts) == 1:  # {{_base_.name}}
        yield from _parts(node.elts[0], path)
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        inner = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        for keyword in node.keywords:
            if keyword.arg is None:  # **name
                yield from _parts(keyword.value, path)
    elif isinstance(node, ast.Dict):
        keys = [getattr(key, 'value', None) for key in node.keys]
        inner = dict(zip(keys, node.values, strict=True))
    elif isinstance(node, (ast.List, ast.Tuple)):
        inner = dict(enumerate(node.elts))
    if not inner:
        yield path, node
    for key, value in inner.items():
        yield from _parts(value, f'{path}.{key}')
