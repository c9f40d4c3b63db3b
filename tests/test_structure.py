"""How the house is built: imports go one way."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each layer may import itself and those before it.
LAYERS = ['ops', 'models', 'checks', 'datasets engine visualization', 'apis']
SHARED = {'errors', 'registry', 'stack', 'version'}


def layer_of(package: str) -> int | None:
    return next((i for i, layer in enumerate(LAYERS) if package in layer.split()), None)


def imported_modules(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, inside functions too."""
    package = path.relative_to(ROOT).with_suffix('').parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else ()
            names.add('.'.join([*parent, *filter(None, [node.module])]))
    return names


@pytest.mark.parametrize(
    'path', sorted((ROOT / 'mmdat').rglob('*.py')), ids=lambda path: str(path.relative_to(ROOT))
)
def test_nothing_imports_upwards(path: Path) -> None:
    own = path.relative_to(ROOT).parts[1]
    for name in imported_modules(path):
        assert not name.startswith(('configs', 'tools', 'tests'))
        parts = name.split('.')
        if parts[0] != 'mmdat' or len(parts) == 1 or own == '__init__.py':
            continue
        if layer_of(own) is None:
            assert parts[1] in SHARED, f'{path} is shared and imports {name}'
        elif parts[1] not in SHARED:
            assert layer_of(parts[1]) <= layer_of(own), f'{path} imports {name}'


@pytest.mark.parametrize(
    'path', sorted((ROOT / 'mmdat' / 'ops').glob('*.py')), ids=lambda path: path.name
)
def test_operators_import_torch_alone(path: Path) -> None:
    allowed = {'torch', 'mmdat', *sys.stdlib_module_names}
    if path.name == 'triton_kernels.py':  # imported where a GPU needs it; comes with torch there
        allowed.add('triton')
    assert {name.split('.')[0] for name in imported_modules(path)} <= allowed
