"""Attention as the plain equation, which each dense implementation but slide attention's calls,
and PyTorch's own.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which positions, biases and softmax are computed: float32 or better."""
    return torch.promote_types(x.dtype, torch.float32)


def is_autocast_enabled(x: Tensor) -> bool:
    """Whether autocast is on for the device of a tensor."""
    return torch.is_autocast_enabled(_autocast_device(x))


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Let what is inside compute in the dtypes of its tensors, on the device of this one."""
    # PyTorch 2.4 does not export what turns autocast off.
    return (
        torch.autocast(_autocast_device(x), enabled=False)
        if is_autocast_enabled(x)
        else nullcontext()
    )


def _autocast_device(x: Tensor) -> str:
    # There is no autocast on the meta device, where models are counted.
    return 'cpu' if x.is_meta else x.device.type


def saturated(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a bias to a dtype, where finite values past its largest become the largest."""
    if torch.promote_types(bias.dtype, dtype) == dtype:
        return bias.to(dtype)
    limits = torch.finfo(dtype)
    return bias.clamp(limits.min, limits.max).where(bias.isfinite(), bias).to(dtype)


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> Tensor:
    """Compute ``softmax(scale * query @ key^T + bias) @ value``, holding all logits.

    Args:
        query: Tensor[..., num_queries, head_dim].
        key: Tensor[..., num_keys, head_dim].
        value: Tensor[..., num_keys, value_dim].
        bias: Tensor[..., num_queries, num_keys] or None.
        scale: Factor of the products of queries and keys.

    Returns:
        Tensor[..., num_queries, value_dim] in the dtype of ``value``, computed in float32 or
        better: half precision has no logits past 65,504, nor such gradients of the weights.
    """
    dtype = compute_dtype(query)
    with without_autocast(query):
        logits = scale * query.to(dtype) @ key.to(dtype).mT
        if bias is not None:
            logits = logits + bias
        return (logits.softmax(-1) @ value.to(dtype)).to(value.dtype)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> Tensor:
    """PyTorch's attention, which autocast would take out of the dtype of its inputs."""
    dtype = torch.promote_types(query.dtype, value.dtype)
    with without_autocast(query):
        bias = None if bias is None else bias.to(dtype)
        queries, keys, values = (x.to(dtype) for x in (query, key, value))
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=scale)
        return out.to(value.dtype)
