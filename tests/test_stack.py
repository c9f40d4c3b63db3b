"""The stack below mmdat: what is supported, and what a checkpoint may hold."""

import builtins
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmdat import stack


@pytest.mark.parametrize(
    'name, version', [('mmcv', '2.2.0'), ('torch', '2.5.1'), ('mmengine', '1.0.0')]
)
def test_unsupported_version_is_named(
    name: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stack.importlib,
        'import_module',
        lambda module: SimpleNamespace(
            __version__=version if module == name else stack.SUPPORTED[module][0]
        ),
    )
    with pytest.raises(ImportError, match=f'mmdat needs {name} >= .*, but {version} is installed'):
        stack.check_stack()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'mmcv', None)
    with pytest.raises(ImportError, match="mmdat needs mmcv >= .* not installed: run 'make setup'"):
        stack.check_stack()


def test_history_survives_a_safe_load(tmp_path: Path) -> None:
    path = tmp_path / 'history.pth'
    torch.save({'loss': HistoryBuffer([1.0, 3.0], [1, 1])}, path)
    assert torch.load(path, weights_only=True)['loss'].mean() == 2


class Attack:
    def __reduce__(self) -> tuple:
        return builtins.getattr, (HistoryBuffer, '__init__')


def test_allow_list_opens_no_other_attribute(tmp_path: Path) -> None:
    path = tmp_path / 'attack.pth'
    torch.save({'loss': Attack()}, path)
    with pytest.raises(pickle.UnpicklingError, match='not allowed'):
        torch.load(path, weights_only=True)
