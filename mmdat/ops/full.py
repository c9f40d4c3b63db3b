"""Attention of every position of a map to one set of keys (PVT, arXiv 2102.12122, section 3.3;
ScalableViT, arXiv 2203.10790, section 3.2).
"""

import torch.nn.functional as F
from torch import Tensor

from .compiled import compiled_global_attention
from .cpu import why_not_compiled
from .dispatch import choose_implementation
from .reference import dense_attention, fused_attention, saturated
from .tiling import attend_in_row_blocks
from .tracing import is_exporting

# From so many keys on, the compiled implementation is the faster one. In half precision PyTorch's
# backward pass takes three times as long for few of them.
COMPILED_KEYS = 256
COMPILED_KEYS_HALF = 32


def global_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float | None = None,
    implementation: str = 'auto',
) -> Tensor:
    r"""Attention of a map of queries to all keys.

    .. math:: \text{softmax}(\text{scale} \cdot q k^T + \text{bias}) v

    Args:
        query: Tensor[batch, num_heads, height, width, head_dim], a query at each map position.
        key: Tensor[batch, num_heads, num_keys, head_dim].
        value: Tensor[batch, num_heads, num_keys, value_dim].
        bias: Tensor[num_heads, height * width, num_keys], added to the logits, or None.
        scale: Factor of the logits, ``head_dim ** -0.5`` if None.
        implementation: ``'dense'``, the equation as written, in memory that grows with queries
            times keys; ``'tiled'``, the same over blocks of rows, which the backward pass
            recomputes; ``'fused'``, PyTorch's ``scaled_dot_product_attention``, in memory that
            grows with queries plus keys unless there is a bias; ``'compiled'``, C++ on a CPU,
            without a bias; ``'auto'``, dense in an export, compiled where it can be and there are
            many keys, else fused.

    Returns:
        Tensor[batch, num_heads, height, width, value_dim] in the dtype of ``value``.

    Raises:
        ValueError: If shapes do not fit each other, or if there is no such implementation.

    Differentiable in all tensors. Floating point of any precision, accumulated in float32 or
    better.

    Example:
        >>> q, k, v = torch.rand(1, 2, 6, 8, 20), torch.rand(1, 2, 12, 20), torch.rand(1, 2, 12, 16)
        >>> global_attention(q, k, v).shape
        torch.Size([1, 2, 6, 8, 16])
    """
    _check_shapes(query, key, value, bias)
    reason = 'there is a bias' if bias is not None else why_not_compiled(query, key, value)
    unsupported = {} if reason is None else {'compiled': reason}
    many_keys = COMPILED_KEYS if query.dtype.itemsize >= 4 else COMPILED_KEYS_HALF
    default = 'fused'
    if is_exporting():
        default = 'dense'
    elif not unsupported and key.shape[2] >= many_keys:
        default = 'compiled'
    chosen = choose_implementation(
        'global_attention',
        implementation,
        default,
        ('dense', 'tiled', 'fused', 'compiled'),
        unsupported,
    )
    own_scale = query.shape[-1] ** -0.5
    if scale is None:
        scale = own_scale
    if chosen == 'compiled':
        if abs(scale - own_scale) > 1e-9 * own_scale:
            key = key * (scale / own_scale)
        return compiled_global_attention(query, key, value)[0]
    if chosen == 'tiled':
        return _tiled(query, key, value, bias, scale)
    queries = query.flatten(2, 3)
    if chosen == 'dense':
        out = dense_attention(queries, key, value, bias, scale)
    else:
        out = _fused(queries, key, value, bias, scale)
    return out.unflatten(2, query.shape[2:4])


def _tiled(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """The equation over blocks of rows, which the backward pass recomputes."""
    width = query.shape[3]

    def attend(rows: Tensor, first_row: int) -> Tensor:
        block_bias = None
        if bias is not None:
            block_bias = bias[:, first_row * width :][:, : rows.shape[2] * width]
        out = dense_attention(rows.flatten(2, 3), key, value, block_bias, scale)
        return out.unflatten(2, rows.shape[2:4])

    return attend_in_row_blocks(attend, query, key.shape[2])


def _fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """PyTorch's attention, (B, h, Nq, d), (B, h, Nk, d) and (B, h, Nk, dv) -> (B, h, Nq, dv)."""
    if bias is not None:
        bias = saturated(bias, query.dtype)[None]
    value_dim = value.shape[-1]
    widest = max(query.shape[-1], value_dim)
    query, key, value = (_for_fused(x, widest) for x in (query, key, value))
    return fused_attention(query, key, value, bias, scale)[..., :value_dim]


def _for_fused(x: Tensor, width: int) -> Tensor:
    """Bring (..., channels) to a width and a layout for which PyTorch holds no logits."""
    # Its kernels want one width of queries, keys and values; zeros change no result.
    if x.shape[-1] < width:
        x = F.pad(x, (0, width - x.shape[-1]))
    # They want the channels to lie together in memory.
    if x.stride(-1) != 1:
        x = x.contiguous()
    return x


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> None:
    if query.ndim != 5:
        raise ValueError(
            f'query must be (batch, num_heads, height, width, head_dim), got {tuple(query.shape)}'
        )
    batch, num_heads, height, width, head_dim = query.shape
    num_keys = key.shape[2] if key.ndim == 4 else 0
    if (
        num_keys == 0
        or key.shape != (batch, num_heads, num_keys, head_dim)
        or value.shape[:-1] != key.shape[:-1]
    ):
        raise ValueError(
            'key must be (batch, num_heads, num_keys, head_dim), of at least one key, '
            'and value (batch, num_heads, num_keys, value_dim), like query '
            f'{tuple(query.shape)}, got {tuple(key.shape)} and {tuple(value.shape)}'
        )
    if bias is not None and bias.shape != (num_heads, height * width, num_keys):
        raise ValueError(
            f'bias must be (num_heads, height * width, num_keys), got {tuple(bias.shape)}'
        )
