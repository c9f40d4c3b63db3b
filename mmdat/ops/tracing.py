"""What code asks that ``torch.export`` traces for images of any size.

Such code must not branch on a size, and cannot afford nested expressions of sizes either:
``torch.export`` reasons about each, for hours. A fresh size is a symbol of its own.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

# The fresh sizes of each export, by the expressions that they stand for.
_fresh: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()

# PyTorch 2.6 does not say.
_torch_is_exporting: Callable[[], bool] = getattr(torch.compiler, 'is_exporting', lambda: False)


def is_exporting() -> bool:
    """Whether ``torch.export`` traces the code, in its non-strict mode, rather than another.

    ``torch.compile`` is no export, although in it ``torch.compiler.is_exporting()`` is true.
    """
    return _torch_is_exporting() and not torch.compiler.is_dynamo_compiling()


def fresh_size(size: int, least: int = 1) -> int:
    """The same size; in an export, as a symbol of which nothing is known but its least value.

    Equal expressions share a symbol, so that blocks that follow each other have equal shapes, which
    ``torch.export`` works out once.
    """
    if not is_exporting() or not isinstance(size, torch.SymInt):
        return size
    known = _fresh.setdefault(size.node.shape_env, {})
    if size.node.expr in known:
        return known[size.node.expr]
    fresh: Any = torch.scalar_tensor(size, dtype=torch.int64).item()
    torch._check(fresh >= least)
    known[size.node.expr] = known[fresh.node.expr] = fresh
    return fresh


def fresh_sizes(x: Tensor, *dims: int, least: int = 1) -> Tensor:
    """The same tensor; in an export, with fresh sizes along some dimensions."""
    if not is_exporting():
        return x
    for dim in dims:
        x = crop(x, dim, fresh_size(x.shape[dim], least))
    return x


def crop(x: Tensor, dim: int, size: int) -> Tensor:
    """The first positions along a dimension; in an export, without an expression of sizes."""
    if not is_exporting():
        # The gradient of a slice is a copy, even if it is one of all.
        return x if size == x.shape[dim] else x.narrow(dim, 0, size)
    return x.index_select(dim, torch.arange(size, device=x.device))


def larger(a: int, b: int) -> int:
    """The larger of two sizes; in an export, without a branch."""
    if is_exporting() and torch.SymInt in (type(a), type(b)):
        return torch.sym_max(a, b)
    return max(a, b)


def ceil_div(size: int, unit: int) -> int:
    """Divide a size by a unit, rounded up: how many units cover it."""
    return (size + unit - 1) // unit
