"""Slide attention (Slide-Transformer, arXiv 2304.04237, section 4)."""

from torch import Tensor

from .reference import compute_dtype


def slide_attention(
    query: Tensor, key: Tensor, value: Tensor, position_bias: Tensor, *, scale: float | None = None
) -> Tensor:
    r"""Attention of each position to its own few keys, the taps of a depthwise convolution.

    .. math:: \text{softmax}_t(\text{scale} \cdot q (k_t + b_t)) v_t

    Args:
        query: Tensor[batch, num_heads, head_dim, height, width].
        key: Tensor[batch, num_heads, head_dim, taps, height, width].
        value: Tensor of the shape of ``key``.
        position_bias: Tensor[num_heads, taps], added to each channel of a tap's key.
        scale: Factor of the logits, ``head_dim ** -0.5`` if None.

    Returns:
        Tensor[batch, num_heads, head_dim, height, width] in the dtype of ``value``.

    Raises:
        ValueError: If shapes do not fit each other.

    Differentiable in all tensors. Floating point of any precision, accumulated in float32 or
    better.

    Example:
        >>> q, kv = torch.rand(1, 2, 4, 6, 8), torch.rand(1, 2, 4, 9, 6, 8)
        >>> slide_attention(q, kv, kv, torch.zeros(2, 9)).shape
        torch.Size([1, 2, 4, 6, 8])
    """
    if (
        query.ndim != 5
        or key.shape != value.shape
        or key.ndim != 6
        or key[:, :, :, 0].shape != query.shape
    ):
        raise ValueError(
            'query must be (batch, num_heads, head_dim, height, width), key and value '
            '(batch, num_heads, head_dim, taps, height, width), got '
            f'{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}'
        )
    if position_bias.shape != (query.shape[1], key.shape[3]):
        raise ValueError(
            f'position_bias must be (num_heads, taps), got {tuple(position_bias.shape)}'
        )
    if scale is None:
        scale = query.shape[2] ** -0.5
    dtype = compute_dtype(query)
    query, position_bias = scale * query.to(dtype), position_bias.to(dtype)
    logits = (query[:, :, :, None] * (key + position_bias[:, None, :, None, None])).sum(2)
    attention = logits.softmax(2)  # (B, h, taps, H, W)
    return (attention[:, :, None] * value).sum(3).to(value.dtype)
