"""Deformable attention with the log-spaced continuous position bias of Swin v2 (arXiv 2111.09883,
section 3.3), in blocks of rows.
"""

import torch.nn.functional as F
from torch import Tensor

from ..reference import compute_dtype, dense_attention, without_autocast
from ..tiling import attend_in_row_blocks
from ..tracing import larger
from .sampling import grid_points


def log_spaced_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    output_weight: Tensor,
) -> Tensor:
    """Compute :func:`mmdat.ops.log_spaced_deformable_attention`, which describes the tensors."""
    num_heads, height, width, head_dim = query.shape[1:]
    groups, num_keys = sampling_locations.shape[1:3]
    query_points = grid_points(
        height, width, device=query.device, dtype=compute_dtype(sampling_locations)
    )

    def attend(rows: Tensor, first_row: int) -> Tensor:
        points = query_points[first_row : first_row + rows.shape[2]].flatten(0, 1)
        bias = log_spaced_bias(
            points, sampling_locations, hidden_weight, hidden_bias, output_weight
        )
        out = dense_attention(rows.flatten(2, 3), key, value, bias, head_dim**-0.5)
        return out.unflatten(2, rows.shape[2:4])

    # The hidden layer holds hidden_dims values for each pair and group, more than the logits.
    hidden_dims = hidden_weight.shape[0]
    keys_per_query = larger(1, num_keys * hidden_dims * groups // num_heads)
    return attend_in_row_blocks(attend, query, keys_per_query)


def log_spaced_bias(
    query_points: Tensor,
    sampling_locations: Tensor,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    output_weight: Tensor,
) -> Tensor:
    """(Nq, 2) and (B, g, Nk, 2) -> (B, h, Nq, Nk): the bias of each pair of query and key."""
    dtype = compute_dtype(sampling_locations)
    displacement = 4 * (query_points[:, None] - sampling_locations[:, :, None]).to(dtype)
    displacement = displacement.sign() * (displacement.abs() + 1).log2() / 3  # log2(8) = 3
    # Half precision does not tell the positions of a large map apart.
    with without_autocast(query_points):
        hidden = F.linear(displacement, hidden_weight.to(dtype), hidden_bias.to(dtype)).relu()
        out = F.linear(hidden, output_weight.to(dtype))  # (B, g, Nq, Nk, h / g)
    return out.permute(0, 1, 4, 2, 3).flatten(1, 2)
