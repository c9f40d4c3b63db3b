"""What the implementations that hold few logits share.

Their operators take tensors and the logits' scale, and return the output and, for the backward
pass, the binary logarithm of the sum of each query's exponentials.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef

# Logits of a tile, over samples and heads. On a CPU (8 MiB in float32) they stay in the cache from
# one operation to the next; on a GPU few launches matter more.
LOGITS_PER_TILE = dict(cpu=2**21, cuda=2**25)
# Logits are kept as exponents of 2, whose powers take half the time of those of e on a CPU.
LOG2_E = math.log2(math.e)
# Powers of 2 of logits up to this size, and their sums, are far from the limits of float32.
MAX_EXPONENT = 64.0


def make_differentiable(
    operator: CustomOpDef, gradients: Callable[..., tuple[Tensor, ...]]
) -> None:
    """Have ``gradients(grad_out, out, log_sums, *tensors, scale)`` give those of the tensors."""

    def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.scale = inputs
        ctx.save_for_backward(*output, *tensors)

    def backward(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return *gradients(grad_out, *ctx.saved_tensors, ctx.scale), None

    operator.register_autograd(backward, setup_context=save_for_backward)


def logits_per_tile(device: torch.device) -> int:
    """How many a tile may have."""
    return LOGITS_PER_TILE.get(device.type, LOGITS_PER_TILE['cuda'])


def even_slices(stop: int, step: int, unit: int = 1) -> list[slice]:
    """[0, stop) in slices of nearly equal length, at most ``step``, whole units if they can be."""
    if not stop:
        return []
    unit = min(unit, step)
    units = math.ceil(stop / unit)
    count = math.ceil(units / (step // unit))
    edges = [min(stop, units * index // count * unit) for index in range(count + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


def precision(x: Tensor) -> torch.dtype:
    """float32 or better."""
    return torch.promote_types(x.dtype, torch.float32)


def empty_map(x: Tensor, shape: Sequence[int]) -> Tensor:
    """(batch, num_heads, height, width, head_dim), as channels-last maps have it."""
    batch, num_heads, height, width, head_dim = shape
    return x.new_empty(batch, height, width, num_heads, head_dim).movedim(3, 1)


def empty_outputs(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Room for those of an operator."""
    out = empty_map(value, (*query.shape[:-1], value.shape[-1]))
    return out, query.new_empty(query.shape[:-1], dtype=precision(query))


def empty_gradients(
    query: Tensor, *others: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Room for those of deformable attention."""
    key, value, locations, table = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in others
    )
    return empty_map(query, query.shape), key, value, locations, table


def product_in(buffer: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(batch, m, k) times (batch, k, n), in a buffer, which stays in the cache from tile to tile.

    Memory that is new each time makes the product take twice as long on a CPU.
    """
    shape = *a.shape[:2], b.shape[2]
    return torch.bmm(a, b, out=buffer[: math.prod(shape)].view(shape))


def softmax_numerators(logits: Tensor, bounded: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of a softmax over dimension 1 of binary logarithms, which they overwrite.

    Args:
        logits: The logarithms.
        bounded: That none is larger than :data:`MAX_EXPONENT`, nor are all of a query smaller than
            its negative. It saves looking for the largest.

    Returns:
        The numerators, their sums and the sums' binary logarithms with the numerators' scale.
    """
    if bounded:
        numerators = logits.exp2_()
        sums = numerators.sum(1, keepdim=True)
        return numerators, sums, sums.log2()
    peaks = logits.amax(1, keepdim=True)
    numerators = logits.sub_(peaks).exp2_()
    sums = numerators.sum(1, keepdim=True)
    return numerators, sums, sums.log2().add_(peaks)
