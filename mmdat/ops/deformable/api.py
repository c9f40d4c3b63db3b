"""Deformable multi-head attention (DAT, arXiv 2201.00520, section 3.2; DAT++, arXiv 2309.01430,
section 3.2).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import choose_implementation
from ..full import global_attention
from ..reference import dense_attention
from ..row_blocks import attend_in_row_blocks
from .tiled import tiled_deformable_attention
from .triton import fused_deformable_attention, unsupported

# Up to so many logits (over samples and heads: 16 MiB in float32) the dense implementation is
# the faster one.
DENSE_LOGITS = 2**22


def deformable_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor | None = None,
    relative_position_bias_table: Tensor | None = None,
    *,
    scale: float | None = None,
    dropout_p: float = 0.0,
    implementation: str = 'auto',
) -> Tensor:
    r"""Attention of a regular grid of queries to keys that lie anywhere on the map.

    .. math:: \text{softmax}(\text{scale} \cdot q k^T + B(p_q - p_k)) v

    ``B`` is the bias table, sampled at half the displacement of query and key.

    Args:
        query: Tensor[batch, num_heads, height, width, head_dim], a query at each map position.
        key: Tensor[batch, num_heads, num_keys, head_dim].
        value: Tensor[batch, num_heads, num_keys, value_dim].
        sampling_locations: Tensor[batch, groups, num_keys, 2], where the keys were sampled, as
            (y, x) with -1 and 1 at the centers of the first and last position of an axis. Groups
            share the heads equally, in order. Needed for the bias alone.
        relative_position_bias_table: Tensor[num_heads, table_height, table_width] or None for no
            bias.
        scale: Factor of the logits, ``head_dim ** -0.5`` if None.
        dropout_p: Probability to drop a weight; above 0, the dense implementation runs.
        implementation: ``'dense'``, the equation as written, in memory that grows with queries
            times keys; ``'tiled'``, tiles of queries that the backward pass makes anew, in memory
            that grows with queries plus keys; ``'fused'``, a Triton kernel for NVIDIA GPUs that
            does so on the chip; ``'auto'``, fused where it can be, else tiled, or dense for small
            maps. Without a table, tiled and fused are PyTorch's ``scaled_dot_product_attention``.

    Returns:
        Tensor[batch, num_heads, height, width, value_dim] in the dtype of ``value``.

    Raises:
        ValueError: If shapes do not fit each other, or if there is no such implementation for
            these inputs.

    Differentiable in all tensors, once. Floating point of any precision; the bias and the softmax
    are computed in float32 or better.

    Example:
        >>> q, kv = torch.rand(1, 4, 6, 8, 16), torch.rand(1, 4, 12, 16)
        >>> locations, table = torch.rand(1, 2, 12, 2), torch.rand(4, 11, 15)
        >>> deformable_attention(q, kv, kv, locations, table).shape
        torch.Size([1, 4, 6, 8, 16])
    """
    _check_shapes(query, key, value, sampling_locations, relative_position_bias_table)
    table = relative_position_bias_table
    # Without a table it is PyTorch's own kernel that is fused.
    hindrance = None if table is None else unsupported(query, value)
    chosen = choose_implementation(
        'deformable_attention',
        implementation,
        _fastest(query, key, hindrance),
        ('dense', 'tiled', 'fused'),
        dropout_p,
        {'fused': hindrance} if hindrance else {},
    )
    if scale is None:
        scale = query.shape[-1] ** -0.5
    if chosen == 'dense':
        return _dense(query, key, value, sampling_locations, table, scale, dropout_p)
    if table is None:
        return global_attention(query, key, value, scale=scale, implementation='fused')
    assert sampling_locations is not None
    attend = fused_deformable_attention if chosen == 'fused' else tiled_deformable_attention
    out, _ = attend(query, key, value, sampling_locations, table, scale)
    return out


def _fastest(query: Tensor, key: Tensor, hindrance: str | None) -> str:
    """Of the implementations, given what hinders the fused one."""
    if query.device.type == 'cuda' and hindrance is None and query.numel():
        return 'fused'
    return 'tiled' if query.shape[:4].numel() * key.shape[2] > DENSE_LOGITS else 'dense'


def _dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor | None,
    table: Tensor | None,
    scale: float,
    dropout_p: float,
) -> Tensor:
    bias = None
    if table is not None:
        assert sampling_locations is not None
        points = grid_points(
            *query.shape[2:4],
            device=query.device,
            dtype=torch.promote_types(query.dtype, torch.float32),
        )
        bias = relative_position_bias(points.flatten(0, 1), sampling_locations, table)
    return dense_attention(query.flatten(2, 3), key, value, bias, scale, dropout_p).unflatten(
        2, query.shape[2:4]
    )


def log_spaced_deformable_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    output_weight: Tensor,
    *,
    scale: float | None = None,
) -> Tensor:
    r"""Like :func:`deformable_attention`, with a bias that a small network computes.

    .. math:: B = W_2 \, \text{relu}(W_1 \, \text{sign}(t) \log_8(|t| + 1) + b_1), t = 4 (p_q - p_k)

    This is the log-spaced continuous position bias of Swin v2 (arXiv 2111.09883, section 3.3).

    Args:
        query: Tensor[batch, num_heads, height, width, head_dim], a query at each map position.
        key: Tensor[batch, num_heads, num_keys, head_dim].
        value: Tensor[batch, num_heads, num_keys, head_dim].
        sampling_locations: Tensor[batch, groups, num_keys, 2], where the keys were sampled, (y, x).
        hidden_weight: Tensor[hidden_dims, 2], W1, for (y, x).
        hidden_bias: Tensor[hidden_dims], b1.
        output_weight: Tensor[num_heads / groups, hidden_dims], W2, for the heads of any group.
        scale: Factor of the logits, ``head_dim ** -0.5`` if None.

    Returns:
        Tensor[batch, num_heads, height, width, head_dim] in the dtype of ``value``.

    Raises:
        ValueError: If shapes do not fit each other.

    Differentiable in all tensors. Floating point of any precision; the bias and the softmax are
    computed in float32 or better.

    Example:
        >>> q, kv = torch.rand(1, 4, 6, 8, 16), torch.rand(1, 4, 12, 16)
        >>> weights = torch.rand(32, 2), torch.rand(32), torch.rand(2, 32)
        >>> log_spaced_deformable_attention(q, kv, kv, torch.rand(1, 2, 12, 2), *weights).shape
        torch.Size([1, 4, 6, 8, 16])
    """
    _check_shapes(query, key, value, sampling_locations, None)
    groups, num_keys = sampling_locations.shape[1:3]
    if output_weight.shape[0] * groups != query.shape[1]:
        raise ValueError(
            'output_weight must be (num_heads / groups, hidden_dims) with '
            f'{query.shape[1]} heads and {groups} groups, '
            f'got {tuple(output_weight.shape)}'
        )
    dtype = torch.promote_types(sampling_locations.dtype, torch.float32)

    def bias(points: Tensor) -> Tensor:
        displacement = 4 * (points[:, None] - sampling_locations[:, :, None]).to(dtype)
        displacement = displacement.sign() * (displacement.abs() + 1).log2() / 3  # log2(8) = 3
        # Half precision does not tell the positions of a large map apart.
        with torch.autocast(query.device.type, enabled=False):
            hidden = F.linear(displacement, hidden_weight.to(dtype), hidden_bias.to(dtype)).relu()
            out = F.linear(hidden, output_weight.to(dtype))  # (B, g, Nq, Nk, h / g)
        return out.permute(0, 1, 4, 2, 3).flatten(1, 2)

    height, width, head_dim = query.shape[2:]
    if scale is None:
        scale = head_dim**-0.5
    query_points = grid_points(height, width, device=query.device, dtype=dtype)

    def attend(rows: Tensor, first_row: int) -> Tensor:
        points = query_points[first_row : first_row + rows.shape[2]].flatten(0, 1)
        return dense_attention(rows.flatten(2, 3), key, value, bias(points), scale).unflatten(
            2, rows.shape[2:4]
        )

    # The hidden layer, one for each group, weighs more than the logits do.
    hidden_dims = hidden_weight.shape[0]
    return attend_in_row_blocks(
        attend, query, max(1, num_keys * hidden_dims * groups // query.shape[1])
    )


def relative_position_bias(
    query_points: Tensor, sampling_locations: Tensor, table: Tensor
) -> Tensor:
    """Sample the bias table bilinearly at half of (query - key), zero outside (DAT, equation 9).

    Args:
        query_points: Tensor[num_queries, 2], (y, x) in [-1, 1].
        sampling_locations: Tensor[batch, groups, num_keys, 2], (y, x) of the keys.
        table: Tensor[num_heads, table_height, table_width].

    Returns:
        Tensor[batch, num_heads, num_queries, num_keys], in float32 or better.
    """
    batch, groups = sampling_locations.shape[:2]
    dtype = torch.promote_types(table.dtype, torch.float32)
    displacement = (query_points[:, None] - sampling_locations[:, :, None]) / 2
    bias = F.grid_sample(
        table.to(dtype).unflatten(0, (groups, -1)).repeat(batch, 1, 1, 1),
        displacement.to(dtype).flatten(0, 1).flip(-1),
        align_corners=True,
    )
    return bias.unflatten(0, (batch, groups)).flatten(1, 2)


def sample_at(x: Tensor, sampling_locations: Tensor) -> Tensor:
    """Sample a feature map bilinearly at each group's own locations, zero outside.

    Args:
        x: Tensor[batch, channels, height, width]; the channels are split over the groups in order.
        sampling_locations: Tensor[batch, groups, key_height, key_width, 2], (y, x) with -1 and 1
            at the centers of the first and last position of an axis.

    Returns:
        Tensor[batch, channels, key_height, key_width] in the dtype of ``x``.

    Example:
        >>> sample_at(torch.rand(1, 6, 8, 8), torch.zeros(1, 2, 3, 4, 2)).shape
        torch.Size([1, 6, 3, 4])
    """
    batch, groups = sampling_locations.shape[:2]
    dtype = torch.promote_types(x.dtype, torch.float32)
    sampled = F.grid_sample(
        x.to(dtype).unflatten(1, (groups, -1)).flatten(0, 1),
        sampling_locations.to(dtype).flatten(0, 1).flip(-1),
        align_corners=True,
    )
    return sampled.unflatten(0, (batch, groups)).flatten(1, 2).to(x.dtype)


def grid_points(
    height: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Positions of a map as (y, x): -1 for the first, 1 for the last, 0 on an axis of size 1.

    Returns:
        Tensor[height, width, 2].

    Example:
        >>> grid_points(1, 3)[0].tolist()
        [[0.0, -1.0], [0.0, 0.0], [0.0, 1.0]]
    """
    return _mesh(
        *(
            torch.arange(size, device=device, dtype=dtype) / (size - 1) * 2 - 1
            if size > 1
            else torch.zeros(1, device=device, dtype=dtype)
            for size in (height, width)
        )
    )


def reference_points(
    height: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Where the keys lie before they are offset, as (y, x): ``(i + 0.5) / (size - 1) * 2 - 1``.

    The divisor is ``size - 1``, as published, so the last point lies past 1. On an axis of size 1
    the coordinate is 0.

    Returns:
        Tensor[height, width, 2].

    Example:
        >>> reference_points(1, 3)[0].tolist()
        [[0.0, -0.5], [0.0, 0.5], [0.0, 1.5]]
    """
    return _mesh(
        *(
            (torch.arange(size, device=device, dtype=dtype) + 0.5) / (size - 1) * 2 - 1
            if size > 1
            else torch.zeros(1, device=device, dtype=dtype)
            for size in (height, width)
        )
    )


def _mesh(y: Tensor, x: Tensor) -> Tensor:
    return torch.stack(torch.meshgrid(y, x, indexing='ij'), dim=-1)


def _check_shapes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor | None,
    table: Tensor | None,
) -> None:
    if query.ndim != 5:
        raise ValueError(
            f'query must be (batch, num_heads, height, width, head_dim), got {tuple(query.shape)}'
        )
    batch, num_heads, _, _, head_dim = query.shape
    num_keys = key.shape[2] if key.ndim == 4 else 0
    if (
        num_keys == 0
        or key.shape != (batch, num_heads, num_keys, head_dim)
        or value.ndim != 4
        or value.shape[:3] != key.shape[:3]
    ):
        raise ValueError(
            'key and value must be (batch, num_heads, num_keys, head_dim), of at '
            f'least one key, like query {tuple(query.shape)}, got '
            f'{tuple(key.shape)} and {tuple(value.shape)}'
        )
    if sampling_locations is None:
        if table is not None:
            raise ValueError('a relative_position_bias_table needs sampling_locations')
        return
    groups = sampling_locations.shape[1] if sampling_locations.ndim == 4 else 0
    if (
        not groups
        or sampling_locations.shape != (batch, groups, num_keys, 2)
        or (num_heads % groups)
    ):
        raise ValueError(
            'sampling_locations must be (batch, groups, num_keys, 2) with groups that '
            f'divide the {num_heads} heads, got {tuple(sampling_locations.shape)}'
        )
    if table is not None and (table.ndim != 3 or table.shape[0] != num_heads or 0 in table.shape):
        raise ValueError(
            'relative_position_bias_table must be (num_heads, height, width) with '
            f'{num_heads} heads, got {tuple(table.shape)}'
        )
