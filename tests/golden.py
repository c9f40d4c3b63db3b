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
from torch import Tensor, nn

from mmdat.models import published_names

DATA = Path(__file__).parent / 'data'
BIAS_TABLES = ('rpe_table', 'rpb', 'relative_position_bias_table')
# (outputs, gradients): largest difference over largest magnitude
TOLERANCES = {torch.float64: (1e-7, 1e-6), torch.float32: (1e-5, 1e-4)}


class PublishedClassifier(nn.Module):
    """A backbone with the authors' classification head, with a fixture's weights in float64."""

    def __init__(self, backbone: nn.Module, manifest: dict[str, list[int]]) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(manifest['cls_norm.norm.weight'])
        self.head = nn.Linear(*reversed(manifest['cls_head.weight']))
        head_names = {'norm.weight': 'cls_norm.norm.weight', 'norm.bias': 'cls_norm.norm.bias',
                      'head.weight': 'cls_head.weight', 'head.bias': 'cls_head.bias'}
        backbone_names = {f'backbone.{ours}': theirs
                          for ours, theirs in published_names(backbone).items()
                          if not theirs.startswith('norms.')}
        self.published_names = head_names | backbone_names
        assert set(self.published_names.values()) == set(manifest)
        self.double()
        with torch.no_grad():
            for ours, theirs in self.published_names.items():
                self.get_parameter(ours).copy_(make_weight(theirs, manifest[theirs]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The un-normed map of each stage and the logits."""
        maps: list[Tensor] = []
        handles = [stage.register_forward_hook(lambda *args: maps.append(args[-1]))
                   for stage in self.backbone.stages]
        self.backbone(x)
        for handle in handles:
            handle.remove()
        logits = self.head(self.norm(maps[-1].permute(0, 2, 3, 1)).mean((1, 2)))
        return {**{f'stage{i}': y for i, y in enumerate(maps)}, 'logits': logits}


def load(name: str) -> dict[str, Any]:
    return json.loads((DATA / f'{name}.json').read_text())


def make_weight(name: str, shape: Iterable[int]) -> Tensor:
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


def make_input(seed: int, shape: Iterable[int]) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(tuple(shape)))


def loss(outputs: dict[str, Tensor]) -> Tensor:
    return sum((y * torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)).mean()
               for y in outputs.values())


def difference(name: str, tensor: Tensor, recorded: dict[str, Any],
               magnitude: float | None = None) -> float:
    """Largest difference at the recorded positions of ``tensor``, over ``magnitude``.

    ``magnitude`` is the largest recorded one if None.
    """
    flat = tensor.detach().double().flatten()
    values = torch.tensor(recorded['values'], dtype=torch.double)
    index = _stream(name).randint(0, flat.numel(), len(values))
    error = (flat[torch.from_numpy(index)] - values).abs().max()
    return float(error / (magnitude or values.abs().max()))


def _stream(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()) & 0xffffffff)
