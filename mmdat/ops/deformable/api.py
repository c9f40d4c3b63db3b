"""Deformable multi-head attention (DAT, arXiv 2201.00520, section 3.2; DAT++, arXiv 2309.01430,
section 3.2).
"""

from collections.abc import Collection

from torch import Tensor

from .. import compiled
from ..compiled import compiled_deformable_attention
from ..dispatch import choose_implementation
from ..full import global_attention
from ..tracing import is_exporting
from . import triton
from .dense import dense_deformable_attention
from .log_spaced import log_spaced_attention
from .tiled import tiled_deformable_attention
from .triton import fused_deformable_attention

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
    implementation: str = 'auto',
) -> Tensor:
    r"""Attention of a regular grid of queries to keys that lie anywhere on the map.

    .. math:: \text{softmax}(q k^T / \sqrt{d} + B(p_q - p_k)) v

    ``B`` is the bias table, sampled at half the displacement of query and key; ``d`` is head_dim.

    Args:
        query: Tensor[batch, num_heads, height, width, head_dim], a query at each map position.
        key: Tensor[batch, num_heads, num_keys, head_dim].
        value: Tensor[batch, num_heads, num_keys, value_dim].
        sampling_locations: Tensor[batch, groups, num_keys, 2], where the keys were sampled, as
            (y, x) with -1 and 1 at the centers of the first and last position of an axis. Groups
            share the heads equally, in order. Needed for the bias alone.
        relative_position_bias_table: Tensor[num_heads, table_height, table_width] or None for no
            bias.
        implementation: ``'dense'``, the equation as written, in memory that grows with queries
            times keys; ``'tiled'``, tiles of queries that the backward pass recomputes, in memory
            that grows with queries plus keys; ``'fused'``, a Triton kernel for NVIDIA GPUs that
            does so on the chip; ``'compiled'``, a kernel in C++ for CPUs with AVX2, where it was
            built (``mmdat.ops.build.build()``), for maps at least half as fine as the table;
            ``'auto'``, fused or compiled where it can be, else tiled, or dense for small maps.
            Without a table, all but dense are PyTorch's ``scaled_dot_product_attention``.

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
    table = relative_position_bias_table
    _check_shapes(query, key, value, sampling_locations, table)
    reasons: dict[str, str | None] = {}
    # Without a table it is PyTorch's kernel, which takes all; an export must not ask for sizes.
    if sampling_locations is not None and table is not None and not is_exporting():
        reasons['fused'] = triton.unsupported(query, key, value)
        reasons['compiled'] = compiled.unsupported(query, key, value, sampling_locations, table)
    unsupported = {name: reason for name, reason in reasons.items() if reason}
    chosen = choose_implementation(
        'deformable_attention',
        implementation,
        'dense' if is_exporting() else _fastest(query, key, table, unsupported),
        ('dense', 'tiled', 'fused', 'compiled'),
        unsupported,
    )
    if chosen == 'dense':
        return dense_deformable_attention(query, key, value, sampling_locations, table)
    if table is None:
        return global_attention(query, key, value, implementation='fused')
    assert sampling_locations is not None
    attend = dict(
        tiled=tiled_deformable_attention,
        fused=fused_deformable_attention,
        compiled=compiled_deformable_attention,
    )[chosen]
    out, _ = attend(query, key, value, sampling_locations, table)
    return out


def log_spaced_deformable_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    output_weight: Tensor,
) -> Tensor:
    r"""Like :func:`deformable_attention`, with a bias that a small network computes.

    .. math:: B = W_2 \, \text{relu}(W_1 \, \text{sign}(t) \log_8(|t| + 1) + b_1), t = 4 (p_q - p_k)

    This is the log-spaced continuous position bias of Swin v2 (arXiv 2111.09883, section 3.3).

    Args:
        query: Tensor[batch, num_heads, height, width, head_dim], a query at each map position.
        key: Tensor[batch, num_heads, num_keys, head_dim].
        value: Tensor[batch, num_heads, num_keys, value_dim].
        sampling_locations: Tensor[batch, groups, num_keys, 2], where the keys were sampled, (y, x).
        hidden_weight: Tensor[hidden_dims, 2], W1, for (y, x).
        hidden_bias: Tensor[hidden_dims], b1.
        output_weight: Tensor[num_heads / groups, hidden_dims], W2, for the heads of any group.

    Returns:
        Tensor[batch, num_heads, height, width, value_dim] in the dtype of ``value``.

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
    num_heads, groups = query.shape[1], sampling_locations.shape[1]
    if output_weight.shape[0] * groups != num_heads:
        raise ValueError(
            'output_weight must be (num_heads / groups, hidden_dims) with '
            f'{num_heads} heads and {groups} groups, got {tuple(output_weight.shape)}'
        )
    return log_spaced_attention(
        query, key, value, sampling_locations, hidden_weight, hidden_bias, output_weight
    )


def _fastest(query: Tensor, key: Tensor, table: Tensor | None, unsupported: Collection[str]) -> str:
    """The fastest implementation for these inputs, given those that cannot take them."""
    if 'fused' not in unsupported and query.device.type == 'cuda' and query.numel():
        return 'fused'
    if 'compiled' not in unsupported and table is not None:
        return 'compiled'
    num_logits = query.shape[:4].numel() * key.shape[2]
    return 'tiled' if num_logits > DENSE_LOGITS else 'dense'


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
