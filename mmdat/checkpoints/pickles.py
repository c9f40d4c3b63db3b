"""Pickles, such as results of a test, read without running code that is in them."""

import codecs
import io
import pickle
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.fileio import PickleHandler

from mmdat.errors import UserError

from .reading import REFUSED


def _load_storage(content: bytes) -> Any:
    """A tensor's storage; PyTorch's own function of that name would run what is in it."""
    try:
        return torch.load(io.BytesIO(content), 'cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        refused = REFUSED.search(str(error))
        if refused is None:
            raise
        raise _Refused(refused['name'] or refused['blocked']) from error


class _DType:
    """Takes the place of ``numpy.dtype``, whose state could say that bytes are addresses."""

    def __init__(self, name: str, *_: Any) -> None:
        self.dtype = np.dtype(name)
        if self.dtype.kind not in 'biufcSU':
            raise _Refused(f'numpy.dtype({name!r})')

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that takes a :class:`_DType` in its state, and is pickled as an ordinary one."""

    def __new__(cls, *_: Any, **__: Any) -> '_Array':
        raise _Refused('numpy.ndarray(...)')  # whose arguments could say that bytes are addresses

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)

    def __setstate__(self, state: tuple) -> None:
        version, shape, stand_in, is_fortran, content = state
        super().__setstate__((version, shape, stand_in.dtype, is_fortran, content))


def _scalar(stand_in: _DType, content: bytes) -> Any:
    return np.frombuffer(content, stand_in.dtype)[0]


def _from_buffer(content: bytes, stand_in: _DType, shape: tuple[int, ...], order: Any) -> Any:
    return np.frombuffer(content, stand_in.dtype).reshape(shape, order=order)


# What rebuilds arrays and scalars, by the names that NumPy 1 and NumPy 2 give it.
NUMPY: dict[str, Any] = {
    'numpy.ndarray': _Array,
    'numpy.dtype': _DType,
    **{
        f'numpy.{core}.{name}': function
        for core in ('core', '_core')
        for name, function in (
            ('multiarray._reconstruct', lambda *_: np.empty(0).view(_Array)),
            ('multiarray.scalar', _scalar),
            ('numeric._frombuffer', _from_buffer),
        )
    },
}
# All that a pickle may call.
ALLOWED: dict[str, Any] = {
    **{
        f'builtins.{kind.__name__}': kind
        for kind in (bytearray, bytes, complex, frozenset, range, set, slice)
    },
    'collections.OrderedDict': OrderedDict,
    '_codecs.encode': codecs.encode,  # of bytes in protocol 2
    'torch.Size': torch.Size,
    'torch._utils._rebuild_tensor_v2': torch._utils._rebuild_tensor_v2,
    'torch.storage._load_from_bytes': _load_storage,
    **NUMPY,
}


class _Refused(pickle.UnpicklingError):
    """Names what a pickle holds that is not read."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace('__builtin__', 'builtins')  # as protocols before 3 say
        full_name = f'{module}.{name}'
        if full_name not in ALLOWED:
            raise _Refused(full_name[:200])
        return ALLOWED[full_name]


class SafePickleHandler(PickleHandler):
    """mmengine's pickles, of which arrays, tensors and plain values alone are read."""

    def load_from_fileobj(self, file: BinaryIO, **kwargs: Any) -> Any:
        """Read a pickle.

        Raises:
            UserError: If it holds anything else, which it names.
        """
        try:
            return _Unpickler(file, **kwargs).load()
        except _Refused as error:
            raise UserError(
                f'a pickle holds {error}, which is neither an array nor a plain value and is not '
                'loaded, since it could run code'
            ) from error
