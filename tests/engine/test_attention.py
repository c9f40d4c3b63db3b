"""Attention is drawn in validations."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.variants import build
from mmdet.structures import DetDataSample
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor, nn

from mmdat.engine import AttentionVisualizationHook
from mmdat.errors import UserError


class Model(nn.Module):
    """A detector's backbone, and its data preprocessor."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = build(name)

    def data_preprocessor(self, data: dict[str, Any], training: bool) -> dict[str, Any]:
        return data | dict(inputs=torch.stack(data['inputs']) / 255)


def runner(name: str, loop: Any) -> Any:
    drawn: list[tuple[str, np.ndarray, int]] = []
    visualizer = SimpleNamespace(add_image=lambda *arguments: drawn.append(arguments), drawn=drawn)
    return SimpleNamespace(
        model=Model(name), visualizer=visualizer, train_loop=loop, iter=70, epoch=2
    )


def batch(images: list[Tensor]) -> dict[str, Any]:
    meta = dict(ori_shape=(9, 9), img_shape=(64, 96))
    return dict(inputs=images, data_samples=[DetDataSample(metainfo=meta) for _ in images])


def test_the_first_images_of_each_validation_are_drawn() -> None:
    hook = AttentionVisualizationHook(num_images=3)
    blue = torch.zeros(3, 64, 96, dtype=torch.uint8)
    blue[0] = 255
    for loop, step in ((None, 2), (IterBasedTrainLoop.__new__(IterBasedTrainLoop), 70)):
        run = runner('dat_pp', loop)
        hook.before_run(run)
        for _ in range(2):
            hook.before_val_epoch(run)
            for index in range(3):
                hook.after_val_iter(run, index, batch([blue, blue]))
        names = [(name, at) for name, _, at in run.visualizer.drawn]
        assert names == 2 * [(f'deformed_points_{index}.png', step) for index in range(3)]
        picture = run.visualizer.drawn[0][1]
        assert picture.shape[1] == 480 + 16
        red, _, blue_part = picture[200:300].reshape(-1, 3).mean(0)
        assert blue_part > red + 20


def test_a_model_without_deformable_attention_is_refused_at_once() -> None:
    for name in ('scalablevit', 'pooled_keys'):
        with pytest.raises(UserError, match='deformable attention, of which the model has none'):
            AttentionVisualizationHook().before_run(runner(name, None))
