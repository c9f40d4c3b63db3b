"""Pickles are read as they were written, and nothing in them is run."""

import builtins
import functools
import os
import pickle
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import pytest
import torch

from mmdat.checkpoints import read_checkpoint
from mmdat.checks.results import read_results
from mmdat.errors import UserError

VALUES = dict(
    path='a/b.jpg',
    shape=(480, 640),
    size=torch.Size([2]),
    rle=b'\xff\x00ab',
    classes={1, 2},
    boxes=torch.rand(3, 4),
    strided=torch.arange(6)[::2],
    half=torch.ones(2, dtype=torch.bfloat16),
    none=torch.zeros(0, 4),
    matrix=np.eye(3, dtype=np.float32),
    fortran=np.asfortranarray(np.arange(6).reshape(2, 3)),
    swapped=np.arange(3, dtype='>i4'),
    names=np.array(['a', 'bc']),
    scalar=np.float32(0.3),
    flag=np.bool_(True),
)


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    same = getattr(first, 'dtype', None) == getattr(second, 'dtype', None)
    return same and np.array_equal(first, second)


@pytest.mark.parametrize(
    'protocol, numpy_core', [(2, b'core'), (2, b'_core'), (4, b'_core'), (5, b'_core')]
)
def test_results_are_read_as_they_were_written(
    protocol: int, numpy_core: bytes, tmp_path: Path
) -> None:
    content = pickle.dumps(VALUES, protocol).replace(b'numpy._core.', b'numpy.%b.' % numpy_core)
    expected = pickle.loads(content)
    (tmp_path / 'results.pkl').write_bytes(content)
    found = mmengine.load(tmp_path / 'results.pkl')
    assert found.keys() == VALUES.keys()
    for key, value in expected.items():
        assert equal(found[key], value), key


class Payload:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.reduced


class StorageOf:
    """A tensor's storage, as PyTorch pickles it, that holds something else."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __reduce__(self) -> tuple:
        path = Path(os.environ['PYTEST_STORAGE'])
        torch.save(self.content, path, _use_new_zipfile_serialization=False)
        return torch.storage._load_from_bytes, (path.read_bytes(),)


@pytest.mark.parametrize(
    'wrap',
    [
        lambda payload: payload,
        lambda payload: [dict(img_id=1, pred_instances=dict(bboxes=[payload]))],
        lambda payload: Payload(set, [1], state=payload),
        lambda payload: Payload(set, [payload]),
        lambda payload: np.array([payload], dtype=object),
        StorageOf,
    ],
)
@pytest.mark.parametrize('name', ['system', 'mkdir', 'eval', 'exec', 'getattr', 'partial'])
@pytest.mark.parametrize('protocol', [2, 5])
def test_code_is_refused_by_name_and_not_run(
    name: str, wrap: Any, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PYTEST_STORAGE', str(tmp_path / 'storage.pth'))
    ran = str(tmp_path / 'ran')
    payload = dict(
        system=Payload(os.system, f'mkdir {ran}'),
        mkdir=Payload(os.mkdir, ran),
        eval=Payload(builtins.eval, f'__import__("os").mkdir("{ran}")'),
        exec=Payload(builtins.exec, f'import os; os.mkdir("{ran}")'),
        getattr=Payload(builtins.getattr, [], 'append'),
        partial=Payload(functools.partial, os.mkdir, ran),
    )[name]
    path = tmp_path / 'results.pkl'
    path.write_bytes(pickle.dumps(wrap(payload), protocol))
    with pytest.raises(UserError, match=rf'results.pkl is not read: .* holds \S*({name}|dtype)'):
        read_results(path, 'mmdet')
    with pytest.raises(UserError, match='could run code'):
        mmengine.load(path)
    assert not Path(ran).exists()


def test_an_array_whose_type_is_a_lie_is_refused(tmp_path: Path) -> None:
    """Of an array of objects, bytes in the file would be taken for addresses."""
    content = pickle.dumps(np.arange(2), 2).replace(b'i8', b'O8')
    (tmp_path / 'results.pkl').write_bytes(content)
    with pytest.raises(UserError, match=r"holds numpy.dtype\('O8'\)"):
        mmengine.load(tmp_path / 'results.pkl')


@pytest.mark.parametrize('protocol', [2, 5])
def test_bytes_are_never_taken_for_addresses(protocol: int, tmp_path: Path) -> None:
    """Neither by what makes an array of a buffer, in results and in a checkpoint."""
    array = Payload(np.ndarray, (1,), 'O', b'AAAAAAAA')
    (tmp_path / 'results.pkl').write_bytes(pickle.dumps(array, protocol))
    with pytest.raises(UserError, match=r'holds numpy.ndarray\(\.\.\.\)'):
        mmengine.load(tmp_path / 'results.pkl')
    torch.save(dict(state_dict={}, history=array), tmp_path / 'a.pth', pickle_protocol=protocol)
    with pytest.raises(UserError, match='cannot be loaded'):
        read_checkpoint(str(tmp_path / 'a.pth'))


def test_arrays_are_written_again_as_ordinary_ones(tmp_path: Path) -> None:
    torch.save(dict(history=np.arange(3.0)), tmp_path / 'a.pth')
    torch.save(read_checkpoint(str(tmp_path / 'a.pth')), tmp_path / 'b.pth')
    assert b'mmdat' not in (tmp_path / 'b.pth').read_bytes()
    assert read_checkpoint(str(tmp_path / 'b.pth'))['history'].tolist() == [0, 1, 2]
