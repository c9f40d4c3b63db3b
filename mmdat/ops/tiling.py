"""What the tiled implementations share."""
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Logits of a tile, over samples and heads. On a CPU (8 MiB in float32) they stay in the cache from
# one operation to the next; on a GPU few launches matter more.
LOGITS_PER_TILE = dict(cpu=2**21, cuda=2**25)
# Logits are kept as exponents of 2, whose powers take half the time of those of e on a CPU.
LOG2_E = math.log2(math.e)


def logits_per_tile(device: torch.device) -> int:
    """How many a tile may have."""
    return LOGITS_PER_TILE.get(device.type, LOGITS_PER_TILE['cuda'])


def even_slices(stop: int, step: int, unit: int = 1) -> list[slice]:
    """[0, stop) in slices of nearly equal length, at most ``step``, whole units if they can be."""
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


def product_in(buffer: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(batch, m, k) times (batch, k, n), in a buffer, which stays in the cache from tile to tile.

    Memory that is new each time makes the product take twice as long on a CPU.
    """
    shape = *a.shape[:2], b.shape[2]
    return torch.bmm(a, b, out=buffer[:math.prod(shape)].view(shape))


def softmax_numerators(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a softmax over dimension 1 of binary logarithms, which they overwrite.

    Returns:
        The numerators, their sums and the sums' binary logarithms with the numerators' scale.
    """
    peaks = logits.amax(1, keepdim=True)
    numerators = logits.sub_(peaks).exp2_()
    sums = numerators.sum(1, keepdim=True)
    return numerators, sums, sums.log2().add_(peaks)
