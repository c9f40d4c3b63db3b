"""How the house is built: imports go one way."""

import sys
from pathlib import Path

import pytest
from helpers.imports import ROOT, imported_modules

# Each layer may import itself and those before it.
LAYERS = [
    'ops',
    'checkpoints',
    'models',
    'checks',
    'datasets deployment engine visualization',
    'apis',
    'analysis',
    'commands',
    '__main__',
]
SHARED = {'config_bases', 'errors', 'files', 'registry', 'stack', 'version'}
# What the implementations of the operators share, and whose imports are no other implementation.
SHARED_BY_OPERATORS = {
    'autograd',
    'build',
    'compiled',
    'cpu',
    'dispatch',
    'gelu',
    'gpu',
    'norm',
    'reference',
    'sampling',
    'tiling',
    'tracing',
}
OPERATORS = sorted((ROOT / 'mmdat' / 'ops').rglob('*.py'))


def relative_path(path: Path) -> str:
    return str(path.relative_to(ROOT))


def layer_of(package: str) -> int | None:
    return next((i for i, layer in enumerate(LAYERS) if package in layer.split()), None)


@pytest.mark.parametrize('path', sorted((ROOT / 'mmdat').rglob('*.py')), ids=relative_path)
def test_nothing_imports_upwards(path: Path) -> None:
    own = path.relative_to(ROOT / 'mmdat').with_suffix('').parts[0]
    for name in imported_modules(path):
        assert not name.startswith(('configs', 'tools', 'tests'))
        parts = name.split('.')
        if parts[0] != 'mmdat' or len(parts) == 1 or own == '__init__':
            continue
        if layer_of(own) is None:
            assert parts[1] in SHARED, f'{path} is shared and imports {name}'
        elif parts[1] not in SHARED:
            assert layer_of(parts[1]) <= layer_of(own), f'{path} imports {name}'


def test_commands_start_without_any_toolbox() -> None:
    paths, seen = [ROOT / 'mmdat' / 'commands.py'], set()
    while paths:
        path = paths.pop()
        seen.add(path)
        for name in imported_modules(path, in_functions=False):
            assert not name.startswith(('mmdet', 'mmseg', 'mmpretrain')), f'{path} imports {name}'
            parts = name.split('.') if name.startswith('mmdat') else []
            for end in range(1, len(parts) + 1):
                file = ROOT.joinpath(*parts[:end])
                file = file / '__init__.py' if file.is_dir() else file.with_suffix('.py')
                paths += [file] if file not in seen else []


@pytest.mark.parametrize('path', OPERATORS, ids=relative_path)
def test_operators_import_torch_alone(path: Path) -> None:
    allowed = {'torch', 'mmdat', *sys.stdlib_module_names}
    if path.name == 'triton_kernels.py':  # imported where a GPU needs it; comes with torch there
        allowed.add('triton')
    assert {name.split('.')[0] for name in imported_modules(path)} <= allowed


@pytest.mark.parametrize(
    'path',
    [path for path in OPERATORS if path.name not in ('__init__.py', 'api.py')],
    ids=relative_path,
)
def test_implementations_do_not_import_each_other(path: Path) -> None:
    # Kernels and what launches them are one implementation.
    launcher = f'mmdat.ops.{path.parent.name}.triton'
    for name in imported_modules(path):
        if path.name == 'triton_kernels.py' and name.startswith(launcher):
            continue
        if name.startswith('mmdat.'):
            # from ..tiling import length, or from .. import tiling
            assert SHARED_BY_OPERATORS & set(name.split('.')[-2:]), f'{path} imports {name}'
