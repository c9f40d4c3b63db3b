"""Numbers that the authors' published models computed, and how to compare with them.

``tests/data/*.json`` hold outputs and gradients for weights and inputs that anyone can regenerate:
a weight depends on its published name and shape alone.
"""

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier
from torch import Tensor

from mmdat.checkpoints.layout import OUTPUT_NORMS
from mmdat.models import DAT, ScalableViT, load_published_checkpoint

DATA = Path(__file__).parents[1] / 'data'
BIAS_TABLES = ('rpe_table', 'rpb', 'relative_position_bias_table')
# (outputs, gradients): largest difference over largest magnitude
TOLERANCES = {torch.float64: (1e-7, 1e-6), torch.float32: (1e-5, 1e-4)}


def build_classifier(fixture: dict[str, Any], **options: Any) -> ImageClassifier:
    """A classifier of a fixture's options, with the fixture's weights in float64."""
    family = ScalableViT if fixture['model'] == 'ScalableViT' else DAT
    backbone = family.from_published(**fixture['options'], out_indices=(3,), **options)
    head = dict(
        num_classes=fixture['options']['num_classes'], in_channels=backbone.settings[-1].embed_dims
    )
    if family is ScalableViT:
        head |= dict(
            type='StackedLinearClsHead',
            mid_channels=[4096],
            norm_cfg=dict(type='LN', eps=1e-6),
            act_cfg=dict(type='GELU'),
        )
    else:
        head |= dict(type='LinearClsHead')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = ImageClassifier(backbone, dict(type='GlobalAveragePooling'), head).double()
    load_published_checkpoint(model, {'model': make_state_dict(fixture['manifest'])})
    return model


def names_in_classifier(model: ImageClassifier) -> dict[str, str]:
    """The published name of each parameter of a classifier, by ours."""
    layout = model.backbone.published_layout()
    body = {
        f'backbone.{ours}': theirs
        for ours, theirs in layout.parameters.items()
        if not ours.startswith(OUTPUT_NORMS)
    }
    return {**body, **layout.classifier}


def run(model: ImageClassifier, x: Tensor) -> dict[str, Tensor]:
    """Run a classifier; return the un-normed map of each stage and the logits."""
    maps: list[Tensor] = []
    handles = [
        stage.register_forward_hook(lambda *args: maps.append(args[-1]))
        for stage in model.backbone.stages
    ]
    logits = model(x)
    for handle in handles:
        handle.remove()
    return {**{f'stage{i}': y for i, y in enumerate(maps)}, 'logits': logits}


def load(name: str) -> dict[str, Any]:
    """Read the recorded numbers of that name."""
    return json.loads((DATA / f'{name}.json').read_text())


def make_weight(name: str, shape: Iterable[int]) -> Tensor:
    """Draw a weight in float64 by its published name, at a scale that suits its kind."""
    x = np.asarray(_stream(name).standard_normal(tuple(shape)))
    leaf = name.rsplit('.', 1)[-1]
    if leaf in BIAS_TABLES:
        x = 0.5 * x
    elif x.ndim >= 2:
        x = 0.5 * x / np.sqrt(np.prod(x.shape[1:]))
    elif leaf == 'bias':
        x = 0.1 * x
    else:
        x = 1 + 0.1 * x
    return torch.from_numpy(x)


def make_state_dict(manifest: dict[str, list[int]]) -> dict[str, Tensor]:
    """Draw all weights of a model, given their shapes by published name."""
    return {name: make_weight(name, shape) for name, shape in manifest.items()}


def make_input(seed: int, shape: Iterable[int]) -> Tensor:
    """Draw a model's input in float64."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(tuple(shape)))


def loss(outputs: dict[str, Tensor]) -> Tensor:
    """Reduce outputs to a number in whose gradient all their elements differ."""
    return sum(
        (y * torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)).mean()
        for y in outputs.values()
    )


def difference(
    name: str, tensor: Tensor, recorded: dict[str, Any], magnitude: float | None = None
) -> float:
    """Largest difference at the recorded positions of ``tensor``, over ``magnitude``.

    ``magnitude`` is the largest recorded one if None.
    """
    flat = tensor.detach().double().flatten()
    values = torch.tensor(recorded['values'], dtype=torch.double)
    index = _stream(name).randint(0, flat.numel(), len(values))
    error = (flat[torch.from_numpy(index)] - values).abs().max()
    return float(error / (magnitude or values.abs().max()))


def _stream(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
