"""Attention inside the windows of a regular partition (Swin, arXiv 2103.14030, section 3.2)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import apply, is_differentiated, is_traced, is_transformed, undifferentiable
from .dispatch import choose_implementation
from .neighborhood import compiled
from .neighborhood.compiled import compiled_window_attention
from .reference import compute_dtype, dense_attention, fused_attention, saturated, without_autocast
from .tiling import even_slices
from .tracing import ceil_div, fresh_size, is_exporting

# Added to the logits of positions that only the shift brought together, as published.
REGION_PENALTY = -100.0
# Windows of at most so many positions have a kernel on CPUs, which holds a bias for each pair of
# them; else a backward pass of their own, which holds so many logits at a time, 2 MiB in float32.
SMALL_WINDOW = 144
LOGITS_PER_SLICE = 2**19


def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window_size: int,
    relative_position_bias_table: Tensor | None = None,
    *,
    shift: int = 0,
    implementation: str = 'auto',
) -> Tensor:
    r"""Attention of each position to the w x w window of a partition that it lies in.

    .. math:: \text{softmax}(q k^T / \sqrt{d} + B[p_q - p_k] + M) v

    ``B`` is the bias table, ``d`` is head_dim.

    A map that the windows do not divide is padded on the right and bottom with positions that
    nothing attends to. With ``shift``, the (padded) map is first rolled by that many positions
    towards its origin, and ``M`` is -100 between positions that were not neighbors before.

    Args:
        query: Tensor[batch, num_heads, height, width, head_dim].
        key: Tensor of the shape of ``query``.
        value: Tensor of the shape of ``query``.
        window_size: Side w of a window.
        relative_position_bias_table: Tensor[(2 * w - 1) ** 2, num_heads], the bias of a key that
            lies at ``query - (dy, dx)`` in row ``(dy + w - 1) * (2 * w - 1) + dx + w - 1``; None
            for no bias.
        shift: Positions to roll by, 0 to w.
        implementation: ``'dense'``, the equation as written; ``'fused'``, PyTorch's
            ``scaled_dot_product_attention``, which keeps no logits if there is no bias table;
            ``'compiled'``, a kernel in C++ for CPUs, for odd windows of at most 144 positions that
            are not shifted, and heads of at most 32 channels, not in float64;
            ``'auto'``, dense in an export, compiled where it can be, else fused without a table.

    Returns:
        Tensor[batch, num_heads, height, width, head_dim] in the dtype of ``value``.

    Raises:
        ValueError: If shapes do not fit each other, or if there is no such implementation for these
            inputs.

    Differentiable in all tensors, once unless dense. Floating point of any precision; the softmax
    is computed in float32 or better.

    Example:
        >>> qkv = torch.rand(3, 1, 2, 9, 12, 16)
        >>> window_attention(*qkv, window_size=7, shift=4).shape
        torch.Size([1, 2, 9, 12, 16])
    """
    table = relative_position_bias_table
    _check_shapes(query, key, value, window_size, table)
    reason = _why_not_compiled(query, key, value, window_size, table, shift)
    default = 'fused' if table is None else 'dense'
    if is_exporting():
        default = 'dense'
    elif not reason:
        default = 'compiled'
    chosen = choose_implementation(
        'window_attention',
        implementation,
        default,
        ('dense', 'fused', 'compiled'),
        {'compiled': reason} if reason else {},
    )
    if chosen == 'compiled':
        side = 2 * window_size - 1
        if table is None:
            biases = query.new_zeros(query.shape[1], side, side, dtype=torch.float32)
        else:
            biases = table.t().unflatten(1, (side, side)).flip(1, 2)  # by key - query
        return compiled_window_attention(query, key, value, biases)[0]
    height, width, head_dim = query.shape[2:]
    scale = head_dim**-0.5
    padded = [window_size * fresh_size(ceil_div(size, window_size)) for size in (height, width)]
    bias = _bias(table, [height, width], padded, window_size, shift, query)
    query, key, value = (_to_windows(x, padded, window_size, shift) for x in (query, key, value))
    if chosen == 'dense':
        out = dense_attention(query, key, value, bias, scale)
    else:
        out = _fused(query, key, value, bias, scale)
    return _from_windows(out, [height, width], window_size, shift)


def _why_not_compiled(
    query: Tensor, key: Tensor, value: Tensor, window_size: int, table: Tensor | None, shift: int
) -> str | None:
    if shift or window_size % 2 == 0 or window_size**2 > SMALL_WINDOW:
        return (
            f'windows must be odd, of at most {SMALL_WINDOW} positions and not shifted, '
            f'got {window_size} x {window_size} with shift {shift}'
        )
    if not query.numel():
        return f'a map of {tuple(query.shape)} is empty'
    return compiled.unsupported(query, key, value, query if table is None else table)


def _fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """PyTorch's attention in each window of (B, window rows, window columns, h, w * w, d)."""
    if bias is not None:
        bias = saturated(bias, query.dtype).expand(*query.shape[:4], -1, -1).flatten(0, 2)
    windows = query.shape[:3]
    query, key, value = (x.flatten(0, 2) for x in (query, key, value))
    if (
        query.device.type == 'cpu'
        and query.shape[2] <= SMALL_WINDOW
        and not (bias is not None and bias.requires_grad)
        and is_differentiated(query, key, value)
        and not (is_traced(query, key, value) or is_transformed())
    ):
        out = apply(_SmallWindows, query, key, value, bias, scale)
    else:
        out = fused_attention(query, key, value, bias, scale)
    return out.unflatten(0, windows)


class _SmallWindows(torch.autograd.Function):
    """PyTorch's attention in (windows, h, w * w, d), its backward pass as batches of products.

    PyTorch's own took 1.4 times as long for windows of 7 x 7 in float32 on an AMD EPYC, and 4 to 5
    times in half precision.
    """

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        return fused_attention(query, key, value, bias, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.scale = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        # A batch of backward passes is mapped over the former.
        compute: Callable[..., Any] = _gradients if is_transformed() else _gradients_once
        return *compute(grad_out, *ctx.saved_tensors, ctx.scale), None, None


def _gradients(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = compute_dtype(query)
    gradients = [[x[:0] for x in (query, key, value)]]
    logits_per_window = query.shape[1] * query.shape[2] * key.shape[2]
    windows = max(1, LOGITS_PER_SLICE // max(1, logits_per_window))
    with without_autocast(query):
        for part in even_slices(len(query), windows):
            q, k, v, grad = (x[part].to(dtype) for x in (query, key, value, grad_out))
            q = q * scale
            logits = q @ k.mT
            if bias is not None:
                logits += bias[part]
            weights = logits.softmax(-1)
            grad_logits = weights * (grad @ v.mT)
            grad_logits -= weights * grad_logits.sum(-1, keepdim=True)
            of_part = scale * (grad_logits @ k), grad_logits.mT @ q, weights.mT @ grad
            gradients.append([x.to(query.dtype) for x in of_part])
    grad_query, grad_key, grad_value = (torch.cat(x) for x in zip(*gradients, strict=True))
    return grad_query, grad_key, grad_value


_gradients_once = undifferentiable(_gradients)


def _bias(
    table: Tensor | None,
    sizes: list[int],
    padded_sizes: list[int],
    window_size: int,
    shift: int,
    query: Tensor,
) -> Tensor | None:
    """What is added to logits of (B, window rows, window columns, h, w * w, w * w)."""
    bias = None
    if table is not None:
        bias = _window_bias(table, window_size).to(compute_dtype(query))
    if shift:
        penalty = _region_penalty(padded_sizes, window_size, shift, query.device)
        bias = penalty if bias is None else bias + penalty
    if is_exporting() or sizes != padded_sizes:
        padding = _padding_bias(sizes, padded_sizes, window_size, shift, query.device)
        bias = padding if bias is None else bias + padding
    return bias


def _to_windows(x: Tensor, padded_sizes: list[int], window_size: int, shift: int) -> Tensor:
    """(B, h, H, W, d) -> (B, window rows, window columns, h, w * w, d), padded, then rolled."""
    height, width = x.shape[2:4]
    if is_exporting():
        for dim, padded_size in zip((2, 3), padded_sizes, strict=True):
            positions = _wrap(torch.arange(padded_size, device=x.device) + shift, padded_size)
            x = x.index_select(dim, positions.clamp(max=x.shape[dim] - 1))
    else:
        if padded_sizes != [height, width]:
            x = F.pad(x, (0, 0, 0, padded_sizes[1] - width, 0, padded_sizes[0] - height))
        if shift:
            x = x.roll((-shift, -shift), (2, 3))
    x = x.unflatten(3, (-1, window_size)).unflatten(2, (-1, window_size))
    return x.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5)


def _from_windows(x: Tensor, sizes: list[int], window_size: int, shift: int) -> Tensor:
    """(B, window rows, window columns, h, w * w, d) -> (B, h, H, W, d)."""
    x = x.unflatten(4, (window_size, window_size)).permute(0, 3, 1, 4, 2, 5, 6)
    x = x.flatten(4, 5).flatten(2, 3)
    if is_exporting():
        for dim, size in zip((2, 3), sizes, strict=True):
            positions = torch.arange(size, device=x.device) - shift
            x = x.index_select(dim, _wrap(positions, x.shape[dim]))
        return x
    if shift:
        x = x.roll((shift, shift), (2, 3))
    return x[:, :, : sizes[0], : sizes[1]]


def _window_bias(table: Tensor, window_size: int) -> Tensor:
    """Tensor[num_heads, w * w, w * w]: the bias of each pair of positions in a window."""
    position = torch.arange(window_size, device=table.device)
    offset = position[:, None] - position + window_size - 1  # (query, key) on an axis
    rows = offset[:, None, :, None] * (2 * window_size - 1) + offset[None, :, None, :]
    return table[rows.flatten(2, 3).flatten(0, 1)].permute(2, 0, 1)


def _region_penalty(
    padded_sizes: list[int], window_size: int, shift: int, device: torch.device
) -> Tensor:
    """Tensor[window rows, window columns, 1, w * w, w * w]: the penalty between rolled regions."""
    row_regions, column_regions = (
        _regions(size, window_size, shift, device) for size in padded_sizes
    )
    region = _partition(3 * row_regions[:, None] + column_regions, window_size)
    apart = region[:, :, None, :, None] != region[:, :, None, None, :]
    return apart * REGION_PENALTY


def _regions(padded_size: int, window_size: int, shift: int, device: torch.device) -> Tensor:
    """Tensor[padded size]: which of the rolled axis's three regions a position lies in.

    0 is before the last window, 1 and 2 are its parts before and behind the place where the end of
    the axis meets its start.
    """
    position = torch.arange(padded_size, device=device)
    return (position >= padded_size - window_size).long() + (position >= padded_size - shift).long()


def _padding_bias(
    sizes: list[int], padded_sizes: list[int], window_size: int, shift: int, device: torch.device
) -> Tensor:
    """Tensor[window rows, window columns, 1, 1, w * w]: minus infinity where a key is padding."""
    padded_rows, padded_columns = (
        _padded_positions(size, padded_size, shift, device)
        for size, padded_size in zip(sizes, padded_sizes, strict=True)
    )
    padded = _partition(padded_rows[:, None] | padded_columns, window_size)
    padded = padded[:, :, None, None, :]
    return torch.zeros_like(padded, dtype=torch.float32).masked_fill(padded, -torch.inf)


def _padded_positions(size: int, padded_size: int, shift: int, device: torch.device) -> Tensor:
    """Tensor[padded size]: whether a position of the padded and rolled axis is padding."""
    return _wrap(torch.arange(padded_size, device=device) + shift, padded_size) >= size


def _wrap(positions: Tensor, size: int) -> Tensor:
    """Positions modulo the size of their axis, of which they are less than one away."""
    positions = torch.where(positions < 0, positions + size, positions)
    return torch.where(positions >= size, positions - size, positions)


def _partition(x: Tensor, window_size: int) -> Tensor:
    """(padded H, padded W) -> (window rows, window columns, w * w)."""
    x = x.unflatten(1, (-1, window_size)).unflatten(0, (-1, window_size))
    return x.transpose(1, 2).flatten(2, 3)


def _check_shapes(
    query: Tensor, key: Tensor, value: Tensor, window_size: int, table: Tensor | None
) -> None:
    if query.ndim != 5 or query.shape != key.shape or query.shape != value.shape:
        raise ValueError(
            'query, key and value must all be (batch, num_heads, height, width, '
            f'head_dim), got {tuple(query.shape)}, {tuple(key.shape)} and '
            f'{tuple(value.shape)}'
        )
    if window_size < 1:
        raise ValueError(f'window_size must be at least 1, got {window_size}')
    rows = (2 * window_size - 1) ** 2
    if table is not None and table.shape != (rows, query.shape[1]):
        raise ValueError(
            'relative_position_bias_table must be ((2 * window_size - 1) ** 2, '
            f'num_heads) = {(rows, query.shape[1])}, got {tuple(table.shape)}'
        )
