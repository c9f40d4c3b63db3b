"""What kernels in C++ need: a CPU for which they were built, and tensors that they can take."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from .build import load

KERNELS = load()
# Whether the processor multiplies matrices in bfloat16 (AMX, AVX512-BF16). Elsewhere, converting
# them to float32 takes less time.
MULTIPLIES_BFLOAT16 = KERNELS is not None and bool(KERNELS.mmdat_multiplies_bfloat16())
DTYPES = torch.float32, torch.bfloat16, torch.float16


def why_not_compiled(*tensors: Tensor) -> str | None:
    """Say why kernels in C++ cannot take tensors; None if they can."""
    if KERNELS is None:
        return 'its kernels in C++ are not built (mmdat.ops.build.build())'
    for x in tensors:
        if x.device.type != 'cpu':
            return f'the tensors are on {x.device.type} rather than a CPU'
        if x.dtype not in DTYPES:
            return f'{x.dtype} is none of {", ".join(map(str, DTYPES))}'
    return None


def kernel_dtype(*maps: Tensor) -> torch.dtype:
    """Return the dtype in which kernels read and write maps."""
    return torch.bfloat16 if all(x.dtype == torch.bfloat16 for x in maps) else torch.float32


def with_channels_together(x: Tensor) -> Tensor:
    """Return a map whose channels, its last dimension, follow each other in memory."""
    return x if x.stride(-1) == 1 else x.contiguous()


def call_kernel(name: str, dtype: torch.dtype, *args: Tensor | Sequence[int] | None) -> None:
    """Call a kernel of a dtype with pointers to tensors' data and arrays of 64-bit integers."""
    pointers = [
        ctypes.c_void_p(x.data_ptr())
        if isinstance(x, Tensor)
        else (ctypes.c_int64 * len(x))(*x)
        if x is not None
        else None
        for x in args
    ]
    suffix = str(dtype).removeprefix('torch.')
    getattr(KERNELS, f'mmdat_{name}_{suffix}')(torch.get_num_threads(), *pointers)
