"""Checkpoint files are read without running what is in them."""

import argparse
import contextlib
import os
import pickle
import pickletools
import shutil
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from mmengine.logging import MessageHub
from torch import Tensor

from mmdat.checkpoints import read_checkpoint, read_weights, reading
from mmdat.errors import UserError

OLD_CHECKPOINTS = Path(__file__).parents[1] / 'data/old_checkpoints'


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


def layouts(evil: object) -> Iterator[object]:
    """Yield an object nested as in each layout that is published."""
    weights = {'bias': torch.ones(2)}
    yield dict(model=weights, config=evil)
    yield dict(state_dict=weights, meta=dict(env=dict(hooks=[(evil,)])))
    yield dict(state_dict=weights, message_hub=dict(runtime_info={'loss': evil}), optimizer={})
    yield OrderedDict(bias=torch.ones(2), evil=evil)
    yield [weights, evil]
    yield evil


@pytest.mark.parametrize('function', [os.mkdir, os.system, shutil.rmtree, eval])
@pytest.mark.parametrize('is_zip', [True, False])
def test_code_in_a_file_is_not_run(function: Callable, is_zip: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / 'evil.pth', tmp_path / 'run'
    trace.mkdir() if function is shutil.rmtree else None
    text = f'mkdir {trace}' if function is os.system else str(trace)
    for content in layouts(Call(function, text)):
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        with pytest.raises(UserError, match=f'{function.__name__}.*could run code'):
            read_checkpoint(str(path))
        with contextlib.suppress(UserError):
            read_checkpoint(str(path), skip_objects=True)
        with contextlib.suppress(UserError):
            read_weights(path)
        assert trace.exists() is (function is shutil.rmtree)


def test_weights_beside_objects_are_read_and_the_objects_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(reading, 'print_log', lambda text, *_: said.append(text))
    path = tmp_path / 'zoo.pth'
    evil = Call(shutil.copyfile, str(path), str(tmp_path / 'run'))
    for is_zip in (True, False):  # files of PyTorch before 1.6 are no zip
        content = dict(
            state_dict={'bias': torch.ones(2)}, meta=dict(hooks=[evil]), config=Config(lr=1)
        )
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        assert read_checkpoint(str(path), skip_objects=True)['state_dict']['bias'].sum() == 2
        assert "could run code: 'shutil.copyfile' and" in said.pop()
    assert not (tmp_path / 'run').exists()


class Config(dict):
    """A dict of another package, as those that configs are in."""


@pytest.mark.parametrize('path', sorted(OLD_CHECKPOINTS.glob('*.pth')), ids=lambda path: path.stem)
def test_checkpoints_of_old_packages_are_read_whole(path: Path) -> None:
    """What real releases of PyTorch, NumPy and mmengine wrote (tests/helpers/old_checkpoint.py)."""
    content = read_checkpoint(str(path))
    hub = MessageHub.get_instance(path.stem)
    hub.load_state_dict(content['message_hub'])
    assert hub.get_scalar('train/loss').mean() == 2
    assert hub.get_scalar('train/lr').max() == 3
    assert hub.get_info('best') == 0.5
    assert content['meta']['seed'] == 7
    assert content['state_dict']['weight'][0, 0].item() == pytest.approx(0.499, abs=1e-5)


def test_safetensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / 'weights.safetensors'
    safetensors.torch.save_file({'bias': torch.ones(2)}, path)
    assert read_weights(path)['bias'].tolist() == [1, 1]
    # Bytes of the header's length may be instructions of pickles.
    header = path.read_bytes()[8:-8].ljust(0x9328)
    path.write_bytes(len(header).to_bytes(8, 'little') + header + path.read_bytes()[-8:])
    assert read_weights(path)['bias'].tolist() == [1, 1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match='damaged'):
        read_weights(path)


def test_a_pickle_is_read_up_to_the_first_name_that_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'pickle.pth'
    path.write_bytes(pickle.dumps([np.ones(2), os.system, *range(999)]))
    operations: list[Any] = []
    read = pickletools.genops
    monkeypatch.setattr(
        pickletools, 'genops', lambda file: (operations.append(op) or op for op in read(file))
    )
    with pytest.raises(UserError, match='asks for posix.system'):
        read_checkpoint(str(path))
    assert len(operations) < 99


def test_a_missing_or_broken_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='there is no checkpoint'):
        read_weights(tmp_path / 'missing.pth')
    for moment, name in enumerate(('b.pth', 'a.pth')):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (moment, moment))
    (tmp_path / 'latest.pth').symlink_to('moved.pth')  # as work dirs of mmcv 1 have
    with pytest.raises(UserError, match=r'is a folder: give a file, such as .*a\.pth$'):
        read_weights(tmp_path)
    (tmp_path / 'last_checkpoint').write_text('runs/epoch_3.pth\n')
    with pytest.raises(UserError, match=r'It names a checkpoint: give runs/epoch_3\.pth$'):
        read_weights(tmp_path / 'last_checkpoint')
    torch.save({'bias': torch.ones(1000)}, tmp_path / 'whole.pth')
    for content, fault in (
        (b'\x80\x02garbage', 'damaged'),
        ((tmp_path / 'whole.pth').read_bytes()[:2000], 'damaged'),
        (b'', 'empty'),
        (b'\n<!DOCTYPE html><html>sign in</html>', 'web page'),
    ):
        (tmp_path / 'broken.pth').write_bytes(content)
        with pytest.raises(UserError, match=rf'broken\.pth cannot .* {fault}'):
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
