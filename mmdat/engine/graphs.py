"""CUDA graphs of a backbone's training passes."""

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdat.errors import UserError
from mmdat.registry import HOOKS

# The first batches of a size find algorithms and compile kernels, which no graph should hold.
BATCHES_BEFORE_CAPTURE = 2


@HOOKS.register_module()
class CUDAGraphHook(Hook):
    """Replay the backbone's forward and backward passes in training as CUDA graphs.

    A pass of a transformer is thousands of short kernels, and most hosts take longer to start them
    one by one than a GPU takes to run them. A graph starts all of a pass at once. Each size of a
    batch needs a graph of its own: this is for crops of one size, and for images that are padded to
    few. Batches of other sizes run as they do without the hook.

    Args:
        max_sizes: Most sizes of a batch that get a graph. Each takes memory for the backbone's
            maps and for gradients of all its parameters.

    Raises:
        UserError: If the training has several processes, accumulates gradients over batches, or
            recomputes activations (``with_cp``), or if the model has no ``backbone``.
    """

    def __init__(self, max_sizes: int = 8) -> None:
        self.max_sizes = max_sizes

    def before_train(self, runner: Runner) -> None:
        accumulated = runner.cfg.get('optim_wrapper', {}).get('accumulative_counts', 1)
        backbone = getattr(runner.model, 'backbone', None)
        for obstacle, is_there in {
            'several processes': get_world_size() > 1,
            'a model without a backbone of its own': backbone is None,
            'optim_wrapper.accumulative_counts above 1': accumulated > 1,
            'with_cp=True': _recomputes(backbone),
        }.items():
            if is_there:
                raise UserError(
                    f'mmdat.CUDAGraphHook does not go together with {obstacle}: leave it out'
                )
        self.backbone: nn.Module = runner.model.backbone
        if next(self.backbone.parameters()).is_cuda:
            replay_backbone(self.backbone, self.max_sizes)
        else:
            print_log('mmdat.CUDAGraphHook does nothing: the model is not on a GPU', 'current')

    def after_train(self, runner: Runner) -> None:
        vars(self.backbone).pop('forward', None)


def _recomputes(model: nn.Module | None) -> bool:
    """Whether a part of a model is computed again in the backward pass, as toolboxes name it."""
    return model is not None and any(getattr(part, 'with_cp', False) for part in model.modules())


def replay_backbone(backbone: nn.Module, max_sizes: int = 8) -> None:
    """Let a backbone replay its training passes as CUDA graphs, until its ``forward`` is deleted.

    Its gradients lie in memory that the next backward pass overwrites: set them to None, not to
    zero, after each step.

    Args:
        backbone: On a CUDA device. It returns tensors that depend on its input and parameters
            alone, and copies nothing from or to the host.
        max_sizes: Most sizes of a batch that get a graph.
    """
    backbone.forward = _Replay(backbone, max_sizes)


class _Replay:
    """The forward pass of a backbone, by a graph where there is one for the size of the batch."""

    def __init__(self, backbone: nn.Module, max_sizes: int) -> None:
        self.backbone = backbone
        self.run: Callable[[Tensor], Any] = backbone.forward
        self.max_sizes = max_sizes
        self.seen: Counter[tuple[Any, ...]] = Counter()
        self.graphs: dict[tuple[Any, ...], Callable[[Tensor], Any]] = {}
        # Outputs of the last replay, until the backward pass has reached them.
        self.pending: list[weakref.ref[Tensor]] = []

    def __call__(self, images: Tensor) -> Any:
        # A second forward pass before the backward pass would overwrite what that needs.
        is_free = not any(output() is not None for output in self.pending)
        if not (is_free and self.backbone.training and torch.is_grad_enabled()):
            return self.run(images)
        key = (*images.shape, images.dtype, *_autocast(images.device.type))
        if key not in self.graphs:
            self.seen[key] += 1
            if self.seen[key] <= BATCHES_BEFORE_CAPTURE or len(self.graphs) == self.max_sizes:
                return self.run(images)
            self.graphs[key] = _capture(_Forward(self.backbone, self.run), images)
        outputs = self.graphs[key](images)
        self.pending = [weakref.ref(output) for output in outputs]
        for output in outputs:
            if output.requires_grad:
                output.register_hook(self._reached)
        return outputs

    def _reached(self, _: Tensor) -> None:
        """Note that the backward pass has begun, which is at its end before the next step."""
        self.pending = []


class _Forward(nn.Module):
    """The module that a graph is captured from, whose forward pass PyTorch replaces."""

    def __init__(self, backbone: nn.Module, run: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.backbone = backbone
        self.run = run

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.run(images))


def _capture(forward: nn.Module, images: Tensor) -> Callable[[Tensor], Any]:
    """Capture a module's forward and backward pass for batches like this one."""
    kind = images.device.type
    enabled, dtype = _autocast(kind)
    # A graph that took weights in lower precision from autocast's cache would not see them change.
    with torch.autocast(kind, dtype, enabled, cache_enabled=False):
        return torch.cuda.make_graphed_callables(
            forward, (images.detach().clone(),), allow_unused_input=True
        )


def _autocast(kind: str) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
