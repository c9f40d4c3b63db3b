"""Models of which the names and shapes are wanted, without values."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# What draws or sets first values in place, alone or as a part of ``torch.nn.init``.
FILLS = {
    *(Tensor.add_, Tensor.clamp_, Tensor.erfinv_, Tensor.fill_, Tensor.mul_),
    *(Tensor.normal_, Tensor.uniform_, Tensor.zero_),
    *(nn.init.constant_, nn.init.kaiming_normal_, nn.init.kaiming_uniform_),
    *(nn.init.normal_, nn.init.uniform_),
}


class _NoValues(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        tensor = args[0] if args else (kwargs or {}).get('tensor')
        if func in FILLS and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **(kwargs or {}))


@contextmanager
def without_values() -> Iterator[None]:
    """Build modules on PyTorch's meta device, and leave out what would set their values.

    There it has no effect, but takes PyTorch 6 times as long as all else.
    """
    with torch.device('meta'), _NoValues():
        yield
