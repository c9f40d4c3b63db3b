"""What the dense implementations share."""

import torch
import torch.nn.functional as F
from torch import Tensor


def dense_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float,
    dropout_p: float = 0.0,
) -> Tensor:
    """``softmax(scale * query @ key^T + bias) @ value``, the softmax in float32 or better.

    Args:
        query: Tensor[..., num_queries, head_dim].
        key: Tensor[..., num_keys, head_dim].
        value: Tensor[..., num_keys, value_dim].
        bias: Tensor[..., num_queries, num_keys] or None.
        scale: Factor of the logits.
        dropout_p: Probability to drop a weight.

    Returns:
        Tensor[..., num_queries, value_dim] in the dtype of ``value``.
    """
    logits = scale * query @ key.mT
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if bias is not None:
        logits = logits + bias
    return F.dropout(logits.softmax(-1), dropout_p).to(value.dtype) @ value
