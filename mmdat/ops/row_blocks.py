"""Run an attention over blocks of query rows, so that memory does not grow with queries x keys."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Logits (over batch and heads) that one block may hold: 64 MiB in float32. Small maps fit in a
# single block and are not recomputed; larger blocks are not faster, their logits leave the cache.
LOGITS_PER_BLOCK = 2**24


def attend_in_row_blocks(
    attend: Callable[[Tensor, int], Tensor], query: Tensor, keys_per_query: int
) -> Tensor:
    """Concatenate ``attend(query[:, :, r:r + n], r)`` over blocks of ``n`` rows.

    Where one block does not hold all rows, each block is recomputed in the backward pass, which
    then keeps the inputs alone.

    Args:
        attend: Maps a block of query rows and the index of its first row to their output.
        query: Tensor[batch, num_heads, height, width, head_dim].
        keys_per_query: Number of logits of one query and head.

    Returns:
        Tensor[batch, num_heads, height, width, head_dim].
    """
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
