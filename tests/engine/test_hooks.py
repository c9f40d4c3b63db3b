"""What happens to a checkpoint between its file and the model."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.runner import BaseLoop, IterBasedTrainLoop
from torch import Tensor, nn

from mmdat.engine import CheckFitHook, CountBrokenImagesHook
from mmdat.errors import UserError
from mmdat.models import DATPlusPlus

STEM = 'backbone.embeddings.0.0.weight'


class Loop(BaseLoop):
    def __init__(self) -> None: ...

    def run(self) -> None: ...


def load(whole: nn.Module, weights: dict[str, Tensor], doing: str) -> dict[str, Tensor]:
    """What a runner loads of these weights as it trains, tests or resumes."""
    runner: Any = SimpleNamespace(
        model=whole,
        _train_loop=None if doing == 'test' else Loop(),
        _val_loop=None,
        _test_loop=None,
        _resume=doing == 'resume',
        _load_from='x.pth',
    )
    checkpoint = dict(state_dict=dict(weights))
    CheckFitHook().after_load_checkpoint(runner, checkpoint)
    return checkpoint['state_dict']


class Model(nn.Module):
    """A model on a nano backbone."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.backbone = DATPlusPlus('nano', **options)


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_a_stem_for_rgb_is_made_to_fit_in_training_alone(prefix: str) -> None:
    rgb = {f'{prefix}{name}': tensor for name, tensor in Model().state_dict().items()}
    gray = Model(in_channels=1)
    loaded = load(gray, rgb, 'train')
    assert torch.equal(loaded[prefix + STEM], rgb[prefix + STEM].sum(1, keepdim=True))
    for doing in ('test', 'resume'):
        with pytest.raises(UserError, match=f'has other shapes for {STEM}'):
            load(gray, rgb, doing)


@pytest.mark.parametrize(
    'out_indices, first',
    [((0, 1), 'embeddings.2'), ((1, 2, 3), 'norms.0.bias, backbone.norms.0.weight')],
)
def test_what_is_not_built_may_be_in_what_is_trained_from_or_tested(
    out_indices: tuple[int, ...], first: str
) -> None:
    whole, part = Model().state_dict(), Model(out_indices=out_indices)
    for doing in ('train', 'test'):
        part.load_state_dict(load(part, whole, doing))
    with pytest.raises(UserError, match=f'it has in addition backbone.{first}'):
        load(part, whole, 'resume')


def test_skipped_images_are_told_in_the_midst_of_a_training_of_iterations() -> None:
    loader = SimpleNamespace(num_broken=0)
    told: list[str] = []
    runner: Any = SimpleNamespace(
        train_loop=IterBasedTrainLoop.__new__(IterBasedTrainLoop),
        logger=SimpleNamespace(warning=told.append),
        iter=0,
    )
    hook = CountBrokenImagesHook()

    class Loader(list):
        dataset = SimpleNamespace(pipeline=[loader])

    runner.train_dataloader = Loader([0] * 4)
    for runner.iter in range(12):
        loader.num_broken = 2 if runner.iter < 8 else 3
        hook.after_train_iter(runner, runner.iter)
    hook.after_train_epoch(runner)
    assert [text.split(' and ')[0] for text in told] == [
        '2 images cannot be read',
        '3 images cannot be read',
    ]
