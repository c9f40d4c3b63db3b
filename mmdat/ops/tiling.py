"""Slices, tiles and blocks of rows: how an implementation holds few logits at a time."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .tracing import is_exporting

# Logits of a tile, over samples and heads. On a CPU (8 MiB in float32) they stay in the cache from
# one operation to the next; on a GPU few launches matter more.
LOGITS_PER_TILE = dict(cpu=2**21, cuda=2**25)
# Logits of a block of rows, over samples and heads: 64 MiB in float32. Larger blocks are not
# faster, as their logits leave the cache.
LOGITS_PER_BLOCK = 2**24
# Factor from natural to binary logarithms. Tiles hold logits in base 2, because on a CPU exp2 takes
# half the time of exp.
LOG2_E = math.log2(math.e)
# Powers of 2 of logits up to this size, and their sums, are far from the limits of float32.
MAX_EXPONENT = 64.0


def logits_per_tile(device: torch.device) -> int:
    """How many logits a tile may have on a device."""
    return LOGITS_PER_TILE.get(device.type, LOGITS_PER_TILE['cuda'])


def even_slices(stop: int, step: int, unit: int = 1) -> list[slice]:
    """Cut [0, stop) into slices of nearly equal length, at most ``step``.

    Args:
        stop: End of the range.
        step: Greatest length of a slice.
        unit: Slices are multiples of it, but for the last one, if ``step`` allows.

    Example:
        >>> [(part.start, part.stop) for part in even_slices(10, 4)]
        [(0, 3), (3, 6), (6, 10)]
    """
    if not stop:
        return []
    unit = min(unit, step)
    units = math.ceil(stop / unit)
    count = math.ceil(units / (step // unit))
    edges = [min(stop, units * index // count * unit) for index in range(count + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


def length(part: slice) -> int:
    """How many positions a slice with a start and a stop has."""
    return part.stop - part.start


def product_in(buffer: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Multiply two batches of matrices into a buffer that is used from tile to tile.

    On a CPU the product takes twice as long in memory that is new each time.

    Args:
        buffer: Tensor[n], of at least as many elements as the product.
        a: Tensor[batch, rows, inner].
        b: Tensor[batch, inner, columns].

    Returns:
        Tensor[batch, rows, columns], a view of the buffer.
    """
    shape = *a.shape[:2], b.shape[2]
    return torch.bmm(a, b, out=buffer[: math.prod(shape)].view(shape))


def softmax_numerators(logits: Tensor, bounded: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a base-2 softmax over dimension 1 up to the division; overwrites the logits.

    Args:
        logits: Tensor[batch, num_keys, num_queries], in base 2.
        bounded: Whether no logit exceeds :data:`MAX_EXPONENT` in magnitude. It saves the search for
            the largest one of each query.

    Returns:
        The numerators, like ``logits``, and two Tensor[batch, 1, num_queries]: their sums, which
        are the denominators, and the base-2 log-sum-exp of the logits.
    """
    if bounded:
        numerators = logits.exp2_()
        sums = numerators.sum(1, keepdim=True)
        return numerators, sums, sums.log2()
    row_max = logits.amax(1, keepdim=True)
    numerators = logits.sub_(row_max).exp2_()
    sums = numerators.sum(1, keepdim=True)
    return numerators, sums, sums.log2().add_(row_max)


def attend_in_row_blocks(
    attend: Callable[[Tensor, int], Tensor], query: Tensor, keys_per_query: int
) -> Tensor:
    """Concatenate ``attend(query[:, :, r:r + n], r)`` over blocks of ``n`` rows.

    If one block does not hold all rows, each block is recomputed in the backward pass, so that
    the inputs alone are kept for it.

    Args:
        attend: Maps a block of query rows and the index of its first row to their output.
        query: Tensor[batch, num_heads, height, width, head_dim].
        keys_per_query: Number of logits of one query and head.

    Returns:
        Tensor[batch, num_heads, height, width, head_dim].
    """
    if is_exporting():
        return attend(query, 0)
    batch, num_heads, height, width = query.shape[:4]
    rows = max(1, LOGITS_PER_BLOCK // max(1, batch * num_heads * width * keys_per_query))
    if rows >= height:
        return attend(query, 0)
    blocks = [
        checkpoint(
            attend,
            query[:, :, row : row + rows],
            row,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for row in range(0, height, rows)
    ]
    return torch.cat(blocks, dim=2)
