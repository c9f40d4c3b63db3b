"""When a backbone's passes are replayed as graphs; what replays them here counts in their stead."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmdat.engine import CUDAGraphHook, graphs, replay_backbone
from mmdat.errors import UserError
from mmdat.models import DATPlusPlus


class Backbone(nn.Module):
    """Returns two maps of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images * self.factor, 2 * images * self.factor]


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sizes of the batches that graphs took, in order."""
    sizes: list[tuple[int, ...]] = []

    def capture(forward: nn.Module, _: Tensor) -> Callable[[Tensor], Any]:
        def replay(images: Tensor) -> Any:
            sizes.append(tuple(images.shape))
            return forward(images)

        return replay

    monkeypatch.setattr(graphs, '_capture', capture)
    return sizes


def step(backbone: nn.Module, size: int = 1) -> None:
    first, second = backbone(torch.ones(size))
    assert (first == 1).all() and (second == 2).all()
    (first + second).sum().backward()


def test_a_size_that_comes_again_gets_a_graph(replayed: list[tuple[int, ...]]) -> None:
    backbone = Backbone()
    replay_backbone(backbone, max_sizes=2)
    for size in (1, 1, 2, 3, 1, 2, 2, 3, 3, 3, 1):
        step(backbone, size)
    # The first two batches of a size have none, and neither has the third of the sizes.
    assert replayed == [(1,), (2,), (1,)]
    assert backbone.factor.grad == 3 * (1 + 1 + 2 + 3 + 1 + 2 + 2 + 3 + 3 + 3 + 1)


def test_only_training_passes_are_replayed(replayed: list[tuple[int, ...]]) -> None:
    backbone = Backbone()
    replay_backbone(backbone)
    for _ in range(4):
        with torch.no_grad():
            backbone(torch.ones(1))
        backbone.eval()(torch.ones(1))
        backbone.train()
    assert not replayed
    for _ in range(3):
        step(backbone)
    assert len(replayed) == 1
    with torch.autocast('cpu', torch.bfloat16):  # in which a graph computes something else
        step(backbone)
    assert len(replayed) == 1


def test_a_pass_before_the_backward_pass_of_another_is_not_replayed(
    replayed: list[tuple[int, ...]],
) -> None:
    backbone = Backbone()
    replay_backbone(backbone)
    step(backbone)
    step(backbone)
    teacher = backbone(torch.ones(1))
    student = backbone(torch.ones(1))
    assert len(replayed) == 1
    (teacher[0] + student[0]).sum().backward()
    backbone(torch.ones(1))
    assert len(replayed) == 2
    backbone(torch.ones(1))  # the outputs above are gone, without a backward pass
    assert len(replayed) == 3


def test_the_hook_refuses_what_graphs_would_get_wrong() -> None:
    def start(with_cp: bool = False, **optim_wrapper: Any) -> nn.Module:
        model = nn.Module()
        model.backbone = DATPlusPlus('nano', with_cp=with_cp)
        runner: Any = SimpleNamespace(model=model, cfg=Config(dict(optim_wrapper=optim_wrapper)))
        hook = CUDAGraphHook()
        hook.before_train(runner)
        hook.after_train(runner)
        return model.backbone

    assert 'forward' not in vars(start())  # on a CPU
    with pytest.raises(UserError, match='accumulative_counts above 1'):
        start(accumulative_counts=2)
    with pytest.raises(UserError, match='with_cp=True'):
        start(with_cp=True)
