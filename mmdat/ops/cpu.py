"""What kernels in C++ need: a CPU for which they were built, and tensors that they can take."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .autograd import is_traced, is_transformed
from .build import load

KERNELS = load()
# Whether the processor multiplies matrices in bfloat16 (AMX, AVX512-BF16). Elsewhere, converting
# them to float32 takes less time.
MULTIPLIES_BFLOAT16 = KERNELS is not None and bool(KERNELS.mmdat_multiplies_bfloat16())
DTYPES = torch.float32, torch.bfloat16, torch.float16
# Kernels of a map's channels take them by vectors, of at most so many.
CHANNELS = 16


def why_not_compiled(*tensors: Tensor) -> str | None:
    """Say why kernels in C++ cannot take tensors; None if they can."""
    if KERNELS is None:
        return 'its kernels in C++ are not built (mmdat.ops.build.build())'
    for x in tensors:
        if not x.is_cpu:
            return f'the tensors are on {x.device.type} rather than a CPU'
        if x.dtype not in DTYPES:
            return f'{x.dtype} is none of {", ".join(map(str, DTYPES))}'
    return None


def why_no_kernel(*tensors: Tensor) -> str | None:
    """Say why kernels that nothing may trace cannot take tensors; None if they can."""
    if is_traced(*tensors) or is_transformed():
        return 'something traces or transforms operators'
    return why_not_compiled(*tensors)


def why_no_kernel_of_channels(x: Tensor, channels: int, *others: Tensor) -> str | None:
    """Say why kernels that go along the channels of a map cannot take it; None if they can.

    Args:
        x: The map.
        channels: How many of its channels they take as a whole.
        others: Further tensors that the kernel gets.
    """
    reason = why_no_kernel(x, *others)
    if reason is None and channels % CHANNELS:
        return f'{channels} channels are no multiple of {CHANNELS}'
    if reason is None and not x.numel():
        return f'a map of {tuple(x.shape)} is empty'
    return reason


def is_contiguous_map(x: Tensor, *others: Tensor) -> bool:
    """Whether maps of one shape, (batch, channels, height, width), fill memory in one order."""
    return x.ndim == 4 and any(
        x.is_contiguous(memory_format=order)
        and all(y.is_contiguous(memory_format=order) for y in others)
        for order in (torch.channels_last, torch.contiguous_format)
    )


def channels_last(x: Tensor) -> Tensor:
    """Return a map, Tensor[batch, channels, height, width], in channels-last memory."""
    return x.contiguous(memory_format=torch.channels_last)


def kernel_dtype(*maps: Tensor) -> torch.dtype:
    """Return the dtype in which kernels read and write maps."""
    return torch.bfloat16 if all(x.dtype == torch.bfloat16 for x in maps) else torch.float32


def with_channels_together(x: Tensor) -> Tensor:
    """Return a map whose channels, its last dimension, follow each other in memory."""
    return x if x.stride(-1) == 1 else x.contiguous()


def call_kernel(
    name: str, dtype: torch.dtype, *args: Tensor | Sequence[int] | float | None
) -> None:
    """Call a kernel of a dtype.

    It gets pointers to tensors' data and to arrays of 64-bit integers, and numbers in float32.
    """
    suffix = str(dtype).removeprefix('torch.')
    kernel = getattr(KERNELS, f'mmdat_{name}_{suffix}')
    kernel(torch.get_num_threads(), *map(_to_c, args))


def _to_c(x: Tensor | Sequence[int] | float | None) -> Any:
    if isinstance(x, Tensor):
        return ctypes.c_void_p(x.data_ptr())
    if isinstance(x, float):
        return ctypes.c_float(x)
    return (ctypes.c_int64 * len(x))(*x) if x is not None else None
