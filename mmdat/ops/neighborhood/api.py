"""Neighborhood attention with a relative position bias (NAT, arXiv 2204.07143, section 3.1)."""

from torch import Tensor

from ..dispatch import choose_implementation
from . import compiled, triton
from .compiled import compiled_neighborhood_attention
from .dense import dense_neighborhood_attention
from .tiled import tiled_neighborhood_attention
from .traced import traced_neighborhood_attention
from .triton import fused_neighborhood_attention


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative_position_bias_table: Tensor,
    *,
    implementation: str = 'auto',
) -> Tensor:
    r"""Attention of each position to the k x k window nearest to it inside the map.

    .. math:: \text{softmax}(q k^T / \sqrt{d} + B[p_k - p_q]) v

    At a border the window is moved inside the map, not padded. ``B`` is the bias table, ``d`` is
    head_dim.

    Args:
        query: Tensor[batch, num_heads, height, width, head_dim].
        key: Tensor of the shape of ``query``.
        value: Tensor of the shape of ``query``.
        relative_position_bias_table: Tensor[num_heads, 2 * k - 1, 2 * k - 1], the bias of a key
            that lies (dy, dx) from its query at [:, dy + k - 1, dx + k - 1]. k is odd.
        implementation: ``'dense'``, the equation as written, with each query's own copy of its
            keys; ``'tiled'``, square tiles of queries that share their keys and that the backward
            pass recomputes; ``'fused'``, Triton kernels for NVIDIA GPUs that do so on the chip;
            ``'traced'``, all those tiles at once, which needs no Python loop and so holds for any
            size when exported; ``'compiled'``, a kernel in C++ for CPUs with AVX2, where it was
            built (``mmdat.ops.build.build()``); ``'auto'``, fused or compiled where it can be, else
            tiled, or traced in an export.

    Returns:
        Tensor[batch, num_heads, height, width, head_dim] in the dtype of ``value``.

    Raises:
        ValueError: If shapes do not fit each other, if the map is smaller than the window, or if
            there is no such implementation for these inputs.

    Differentiable in all tensors, once unless dense or traced. Floating point of any precision; the
    softmax is computed in float32 or better.

    Example:
        >>> qkv = torch.rand(3, 1, 2, 9, 12, 16)
        >>> neighborhood_attention(*qkv, torch.zeros(2, 13, 13)).shape
        torch.Size([1, 2, 9, 12, 16])
    """
    table = relative_position_bias_table
    _check_shapes(query, key, value, table)
    reasons = dict(
        fused=triton.unsupported(query, key, value, table),
        compiled=compiled.unsupported(query, key, value, table),
    )
    unsupported = {name: reason for name, reason in reasons.items() if reason}
    fastest = 'tiled'
    if 'fused' not in unsupported and query.device.type == 'cuda' and query.numel():
        fastest = 'fused'
    elif 'compiled' not in unsupported:
        fastest = 'compiled'
    chosen = choose_implementation(
        'neighborhood_attention',
        implementation,
        fastest,
        ('dense', 'tiled', 'fused', 'traced', 'compiled'),
        unsupported,
    )
    if chosen == 'dense':
        return dense_neighborhood_attention(query, key, value, table)
    if chosen == 'traced':
        return traced_neighborhood_attention(query, key, value, table)
    attend = dict(
        tiled=tiled_neighborhood_attention,
        fused=fused_neighborhood_attention,
        compiled=compiled_neighborhood_attention,
    )[chosen]
    out, _ = attend(query, key, value, table)
    return out


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> None:
    if query.ndim != 5 or query.shape != key.shape or query.shape != value.shape:
        raise ValueError(
            'query, key and value must all be (batch, num_heads, height, width, '
            f'head_dim), got {tuple(query.shape)}, {tuple(key.shape)} and '
            f'{tuple(value.shape)}'
        )
    kernel_size = (table.shape[-1] + 1) // 2
    side = 2 * kernel_size - 1
    if table.shape != (query.shape[1], side, side) or kernel_size % 2 == 0:
        raise ValueError(
            'relative_position_bias_table must be (num_heads, 2 * k - 1, 2 * k - 1) '
            f'with {query.shape[1]} heads and odd k, got {tuple(table.shape)}'
        )
    if query.shape[2] < kernel_size or query.shape[3] < kernel_size:
        raise ValueError(
            f'the map must be at least {kernel_size} x {kernel_size}, the window, '
            f'got {query.shape[2]} x {query.shape[3]}: pad it first'
        )
