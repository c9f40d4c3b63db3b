"""Checkpoint files are read without running what is in them."""

import argparse
import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mmdat.checkpoints import read_checkpoint, read_weights
from mmdat.errors import UserError


def save_beside_other_things(
    path: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Save as training scripts do: with an average, an optimizer, arguments and a configuration."""
    module = types.ModuleType('yacs.config')
    module.CfgNode = type('CfgNode', (dict,), {'__module__': 'yacs.config'})
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    config = module.CfgNode(MODEL=module.CfgNode(TYPE='dat'))
    config.__dict__['frozen'] = True
    torch.save(
        dict(
            model=weights,
            model_ema=weights,
            optimizer=dict(state={}, param_groups=[]),
            epoch=299,
            max_accuracy=np.float64(83.9),
            config=config,
            args=argparse.Namespace(lr=1e-3),
        ),
        path,
    )
    monkeypatch.delitem(sys.modules, 'yacs.config')


def test_weights_are_read_whatever_lies_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {'norm.weight': torch.tensor([1.0, 2.0]), 'norm.bias': torch.tensor([3.0, 4.0])}
    save_beside_other_things(tmp_path / 'dat.pth', weights, monkeypatch)
    read = read_weights(tmp_path / 'dat.pth')
    assert {name: tensor.tolist() for name, tensor in read.items()} == {
        'norm.weight': [1, 2],
        'norm.bias': [3, 4],
    }


class Call:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function: Callable, *args: str) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / 'evil.pth', tmp_path / 'run'
    # PyTorch refuses os by name, and loads a stand-in for the other.
    torch.save(dict(model={'bias': torch.ones(2)}, evil=Call(os.mkdir, str(trace))), path)
    with pytest.raises(UserError, match='not loaded for safety'):
        read_weights(path)
    evil = Call(shutil.copyfile, str(path), str(trace))
    torch.save(dict(model={'bias': torch.ones(2)}, evil=evil), path)
    assert read_weights(path)['bias'].sum() == 2
    with pytest.raises(UserError, match='not loaded for safety'):
        read_checkpoint(str(path))
    assert not trace.exists()


def test_a_missing_or_broken_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='there is no checkpoint'):
        read_weights(tmp_path / 'missing.pth')
    (tmp_path / 'broken.pth').write_bytes(b'\x80\x02garbage')
    with pytest.raises(UserError, match=r'broken\.pth'):
        read_weights(tmp_path / 'broken.pth')


@pytest.mark.parametrize('content', [{'epoch': 3}, {}, {'model': {'bias': 1.0}}, [torch.ones(1)]])
def test_a_file_without_weights_is_told_in_a_sentence(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / 'file.pth')
    with pytest.raises(UserError, match=r'file\.pth has no weights'):
        read_weights(tmp_path / 'file.pth')


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_weights_are_found_under_each_entry_and_prefix(prefix: str) -> None:
    weights = {f'{prefix}bias': torch.ones(2)}
    for content in (weights, dict(state_dict=weights), dict(model=weights)):
        assert list(read_weights(content)) == ['bias']
