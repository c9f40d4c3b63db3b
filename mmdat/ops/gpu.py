"""What Triton kernels need: an NVIDIA GPU, Triton, and tensors that they can take."""

import contextlib
import functools
import importlib
import importlib.metadata
import os
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from .tracing import is_exporting

# Earlier versions have not been tried.
MIN_TRITON = 3, 6
# CUDA's limit of the second axis of a grid.
MAX_GRID = 65535
# Triton counts programs, and kernels count elements of a head, in 32 bits.
MAX_INT32 = 2**31 - 1
# Heads are padded to this width, since Triton multiplies no narrower matrices.
MIN_HEAD_BLOCK = 16


def _installed_triton() -> str | None:
    """Version of the installed Triton, found without importing it, or None."""
    for name in ('triton', 'pytorch-triton'):  # the latter comes with nightly builds of PyTorch
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


TRITON_VERSION = _installed_triton()


def why_no_triton() -> str | None:
    """Say why there is no Triton for kernels; None if there is."""
    if TRITON_VERSION is None:
        return 'Triton is not installed'
    if tuple(map(int, TRITON_VERSION.split('.')[:2])) < MIN_TRITON:
        return f'Triton is {TRITON_VERSION}, older than {".".join(map(str, MIN_TRITON))}'
    return None


def why_no_kernels(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_tiles: int,
    widest_head: Mapping[torch.dtype, int],
) -> str | None:
    """Say why Triton kernels cannot take the tensors of an attention; None if they can.

    Args:
        query: Tensor[batch, num_heads, height, width, head_dim].
        key: Tensor[batch, num_heads, ..., head_dim].
        value: Tensor[batch, num_heads, ..., value_dim].
        num_tiles: How many tiles of queries cover a map, each a program's.
        widest_head: For each dtype that the kernels take, how many dimensions a head may have.
    """
    if reason := why_no_triton():
        return reason
    if is_exporting():  # for sizes of which nothing may be asked below
        return 'kernels in Triton cannot be exported'
    if query.device.type == 'cuda':
        if torch.version.hip:
            return 'the GPU is not one of NVIDIA'
        capability = torch.cuda.get_device_capability(query.device)
        if capability < (8, 0):
            return f'the GPU has compute capability {capability[0]}.{capability[1]}, below 8.0'
        failure = _launch_failure(query.device)
        if failure:
            return failure
    elif os.environ.get('TRITON_INTERPRET') != '1':
        return f'the tensors are on {query.device.type} rather than a CUDA device'
    if query.shape[:2].numel() > MAX_GRID:
        return f'there are more than {MAX_GRID} samples times heads'
    # The output has the channels of all heads at each position.
    reach = max(*map(_reach, (query, key, value)), query.shape[1:4].numel() * value.shape[-1])
    if max(reach, num_tiles * query.shape[:2].numel()) > MAX_INT32:
        return f'the map of {query.shape[2]} x {query.shape[3]} is too large for 32 bits'
    if query.dtype != key.dtype:
        return f'queries are in {query.dtype}, keys in {key.dtype}'
    for x in (query, value):
        if x.dtype not in widest_head:
            return f'{x.dtype} is none of {", ".join(map(str, widest_head))}'
        if x.shape[-1] > widest_head[x.dtype]:
            return (
                f'heads have {x.shape[-1]} dimensions, more than {widest_head[x.dtype]} in '
                f'{x.dtype}'
            )
    return None


def head_block(dims: int) -> int:
    """Round the width of a head up to a power of two, the only sizes that Triton has."""
    return max(MIN_HEAD_BLOCK, 1 << (dims - 1).bit_length())


def allows_tf32() -> bool:
    """Whether PyTorch may multiply float32 on tensor cores.

    Then the kernels do so too, but in three products, which are about as exact as one of float32.
    """
    return getattr(torch.backends.cuda.matmul, 'fp32_precision', None) == 'tf32'


def _reach(x: Tensor) -> int:
    """Elements of memory from the first to the last element of a head."""
    return sum(
        (size - 1) * stride for size, stride in zip(x.shape[2:], x.stride()[2:], strict=True)
    )


def _launch_failure(device: torch.device) -> str | None:
    """Say why kernels cannot be launched on a GPU; None if they can."""
    if torch.compiler.is_compiling():
        return None  # what a launch needs, torch.compile does too, and says itself
    return _try_launch(device)


@functools.cache
def _try_launch(device: torch.device) -> str | None:
    """Launch a kernel that does nothing; if that fails, say why and warn."""
    try:
        _launch_nothing(device)
    except Exception as error:
        first_line, *_ = f'{error}\n'.splitlines()
        failure = (
            'Triton cannot launch kernels, for which it needs a C compiler and the headers of '
            f'Python (gcc and python3-dev): {first_line}'
        )
        warnings.warn(f'attention takes longer than it could: {failure}', stacklevel=2)
        return failure
    return None


def _launch_nothing(device: torch.device) -> None:
    kernels = importlib.import_module('.triton_kernels', __package__)
    with torch.cuda.device(device):
        kernels.nothing[(1,)](0)
