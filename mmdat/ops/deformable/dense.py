"""Deformable attention as the equation is written: all logits and biases are held."""

from torch import Tensor

from ..reference import compute_dtype, dense_attention
from .sampling import grid_points, relative_position_bias


def dense_deformable_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor | None,
    relative_position_bias_table: Tensor | None,
) -> Tensor:
    """Compute :func:`mmdat.ops.deformable_attention`, which describes the tensors."""
    height, width, head_dim = query.shape[2:]
    bias = None
    if relative_position_bias_table is not None:
        assert sampling_locations is not None
        points = grid_points(height, width, device=query.device, dtype=compute_dtype(query))
        bias = relative_position_bias(
            points.flatten(0, 1), sampling_locations, relative_position_bias_table
        )
    out = dense_attention(query.flatten(2, 3), key, value, bias, head_dim**-0.5)
    return out.unflatten(2, (height, width))
