"""What the custom operators share: how they are differentiated and where they write.

Each operator takes query, key, value and further tensors, and returns the output and, for its
backward pass, the base-2 log-sum-exp of each query's logits. It is opaque to ``torch.compile``,
which learns the shapes of its results from the ``empty_*`` functions here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .reference import compute_dtype


def make_operator(
    name: str,
    attend: Callable[..., tuple[Tensor, Tensor]],
    gradients: Callable[..., tuple[Tensor, ...]],
    empty_outputs: Callable[..., tuple[Tensor, Tensor]],
    empty_gradients: Callable[..., tuple[Tensor, ...]],
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Make a differentiable operator of functions that compute it and its gradients.

    Registers ``torch.ops.mmdat.<name>`` and ``<name>_backward`` for all that traces operators, such
    as ``torch.compile``. Where nothing traces, the functions are called without them, since on a
    GPU passing through an operator written in Python takes longer than launching its kernels; and
    without autograd where nothing is differentiated.

    Args:
        name: Name of the operator.
        attend: Takes tensors, returns the output and the log-sum-exp.
        gradients: Called as ``gradients(grad_out, out, lse, *tensors)``; returns a gradient for
            each of the tensors.
        empty_outputs: Takes the tensors; allocates what ``attend`` returns.
        empty_gradients: Takes the tensors; allocates what ``gradients`` returns.

    Returns:
        The operator.
    """
    operator = torch.library.custom_op(f'mmdat::{name}', attend, mutates_args=())
    backward_operator = torch.library.custom_op(
        f'mmdat::{name}_backward', gradients, mutates_args=()
    )
    operator.register_fake(empty_outputs)
    backward_operator.register_fake(lambda grad_out, out, lse, *tensors: empty_gradients(*tensors))

    def save_for_backward(
        ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]
    ) -> None:
        ctx.save_for_backward(*output, *inputs)

    def backward(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        return backward_operator(grad_out, *ctx.saved_tensors)

    operator.register_autograd(backward, setup_context=save_for_backward)

    untraced_gradients = undifferentiable(gradients)

    class Untraced(torch.autograd.Function):
        """The operator where nothing traces operators."""

        @staticmethod
        def forward(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            return attend(*tensors)

        @staticmethod
        def setup_context(
            ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]
        ) -> None:
            save_for_backward(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor, ...]:
            return untraced_gradients(grad_out.resolve_neg(), *ctx.saved_tensors)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Any, Any]:
            return _call_for_each(Untraced.apply, info.batch_size, in_dims, tensors)

    def call(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        if is_traced(*tensors):
            return operator(*tensors)
        # Kernels read memory, in which a negated view is not negated.
        tensors = tuple(x.resolve_neg() for x in tensors)
        return apply(Untraced, *tensors) if is_differentiated(*tensors) else attend(*tensors)

    return call


def is_traced(*tensors: Tensor) -> bool:
    """Whether something traces or counts operators, so that it has to meet each.

    So do tensors that are no plain ones, such as a DTensor, which may have no memory of their own.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or _get_current_dispatch_mode() is not None
        or any(x.is_meta or type(x) not in (Tensor, nn.Parameter) for x in tensors)
    )


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation transforms the code."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_differentiated(*tensors: Tensor) -> bool:
    """Whether anything may ask for derivatives of what is computed from tensors.

    Where nothing does, operators skip ``autograd.Function``, which takes longer than some of them.
    """
    return (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)) or is_transformed()


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Call ``function.apply(*args)``, with all arguments that ``function.forward`` has.

    PyTorch looks for missing ones at each call, which takes longer than some kernels.
    """
    if is_transformed():
        return function.apply(*args)
    call = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    return call(*args)


def make_compiled(
    compute: Callable[..., Tensor],
    gradients: Callable[..., tuple[Tensor, ...]],
    dense: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """Make a differentiable function of kernels that keep nothing but what they are given.

    Args:
        compute: Takes tensors, then options; returns the output.
        gradients: Called as ``gradients(grad_out, *tensors, *options)``; returns a gradient for
            each of the tensors.
        dense: The equation, called as ``compute`` is: for second derivatives, and where
            something maps over the backward pass.

    Returns:
        The function, called as ``compute`` is.
    """

    class Compiled(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> Tensor:
            return compute(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            tensors = [x for x in inputs if isinstance(x, Tensor)]
            ctx.options = inputs[len(tensors) :]
            ctx.save_for_backward(*tensors)

        @staticmethod
        def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
            tensors = ctx.saved_tensors
            if torch.is_grad_enabled() or is_transformed() or is_legacy_batchedtensor(grad_out):
                # Autocast, which let dtypes differ, may be off by now.
                def in_float32(*tensors: Tensor) -> Tensor:
                    return dense(*(x.float() for x in tensors), *ctx.options)

                found = torch.func.vjp(in_float32, *tensors)[1](grad_out.float())
            else:
                found = gradients(grad_out.resolve_neg(), *tensors, *ctx.options)
            return *found, *(None for _ in ctx.options)

    def call(*args: Any) -> Tensor:
        # Kernels read memory, in which a negated view is not negated.
        args = tuple(x.resolve_neg() if isinstance(x, Tensor) else x for x in args)
        tensors = (x for x in args if isinstance(x, Tensor))
        return apply(Compiled, *args) if is_differentiated(*tensors) else compute(*args)

    return call


def undifferentiable(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
    """Let gradients be computed, but raise an error where they are differentiated again.

    PyTorch's ``once_differentiable`` leaves parts of a second derivative out in silence, where it
    is asked for with ``torch.autograd.grad``. Inside ``torch.func`` the function gets tensors
    that are not wrapped.
    """

    class Undifferentiable(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> tuple[Tensor, ...]:
            return function(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            raise RuntimeError(
                'this operator is differentiable once: compute second derivatives, all passes, '
                "inside mmdat.ops.prefer_implementation('dense')"
            )

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
            return _call_for_each(Undifferentiable.apply, info.batch_size, in_dims, args)

    def call(*args: Any) -> tuple[Tensor, ...]:
        tensors = (x for x in args if isinstance(x, Tensor))
        return apply(Undifferentiable, *args) if is_differentiated(*tensors) else function(*args)

    return call


def _call_for_each(
    function: Callable[..., tuple[Tensor, ...]],
    size: int,
    dims: tuple[int | None, ...],
    args: tuple[Any, ...],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Map a function over dimensions of its arguments, as ``torch.vmap`` asks for it."""
    mapped = list(zip(args, dims, strict=True))
    calls = [
        function(*(x if dim is None else x.select(dim, i) for x, dim in mapped))
        for i in range(size)
    ]
    if not calls:  # sums over nothing are zeros, whose results have the shapes and are then cut off
        calls = [function(*(x if dim is None else x.sum(dim) for x, dim in mapped))]
    results = tuple(torch.stack(tensors)[:size] for tensors in zip(*calls, strict=True))
    return results, (0,) * len(results)


def compute_delta(grad_out: Tensor, out: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute delta = rowsum(grad_out * out), as FlashAttention calls it.

    The gradient of a logit is its weight times (the gradient of the weight - delta).

    Args:
        grad_out: Tensor[..., value_dim].
        out: Tensor[..., value_dim].
        dtype: Dtype of the product and the sum.

    Returns:
        Tensor[..., 1].
    """
    return (grad_out.to(dtype) * out).sum(-1, keepdim=True)


def empty_map(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Allocate a map whose channels lie together in memory, as in channels-last format.

    Args:
        x: Tensor with the map's dtype and device.
        shape: (batch, num_heads, *positions, head_dim).

    Returns:
        Tensor[batch, num_heads, *positions, head_dim], a view of a contiguous
        Tensor[batch, *positions, num_heads, head_dim].
    """
    batch, num_heads, *positions, head_dim = shape
    return x.new_empty(batch, *positions, num_heads, head_dim).movedim(-2, 1)


def empty_outputs(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Allocate the output of an operator and the log-sum-exp of its logits."""
    out = empty_map(value, (*query.shape[:-1], value.shape[-1]))
    return out, query.new_empty(query.shape[:-1], dtype=compute_dtype(query))


def empty_gradients(
    query: Tensor, key: Tensor, value: Tensor, locations: Tensor, table: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Allocate the gradients of the inputs of deformable attention."""
    grad_key, grad_value, grad_locations, grad_table = (
        torch.empty_like(x, memory_format=torch.contiguous_format)
        for x in (key, value, locations, table)
    )
    return empty_map(query, query.shape), grad_key, grad_value, grad_locations, grad_table


def empty_map_gradients(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate the gradients of the inputs of neighborhood attention."""
    grad_query, grad_key, grad_value = (empty_map(x, x.shape) for x in (query, key, value))
    grad_table = torch.empty_like(table, memory_format=torch.contiguous_format)
    return grad_query, grad_key, grad_value, grad_table
