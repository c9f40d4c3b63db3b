"""What kernels in C++ need: a CPU for which they were built, and tensors that they can take."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from .build import load

KERNELS = load()
DTYPES = torch.float32, torch.bfloat16, torch.float16


def why_not_compiled(*tensors: Tensor) -> str | None:
    """Say why kernels in C++ cannot take the tensors of an attention; None if they can."""
    if KERNELS is None:
        return 'its kernels in C++ are not built (mmdat.ops.build.build())'
    for x in tensors:
        if x.device.type != 'cpu':
            return f'the tensors are on {x.device.type} rather than a CPU'
        if x.dtype not in DTYPES:
            return f'{x.dtype} is none of {", ".join(map(str, DTYPES))}'
    return None


def call_kernel(name: str, *args: Tensor | Sequence[int]) -> None:
    """Call a kernel with pointers to tensors' data and with arrays of 64-bit integers."""
    pointers = [
        ctypes.c_void_p(x.data_ptr()) if isinstance(x, Tensor) else (ctypes.c_int64 * len(x))(*x)
        for x in args
    ]
    getattr(KERNELS, f'mmdat_{name}')(torch.get_num_threads(), *pointers)
