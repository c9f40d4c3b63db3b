"""Which architecture a checkpoint's weights are of, told by their names and shapes."""

import functools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mmdat.errors import enumerate_names
from mmdat.registry import MODELS

from .layout import published_names

# Share of an architecture's parameters that weights must have to be called by its name; an output
# norm or a head of their own does not change it.
ENOUGH = 0.9
# Said of weights in the files that the authors published.
AUTHORS = "in its authors' names"

Shapes = dict[str, tuple[int, ...]]


def recognize(weights: Mapping[str, Tensor]) -> str:
    """Say what weights are of, such as ``a DATPlusPlus 'tiny'``, also in the authors' names.

    Args:
        weights: Tensors by name, a backbone's alone or a whole model's.
    """
    prefix = 'backbone.'
    body = {
        name.removeprefix(prefix): tuple(tensor.shape)
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
    body = body or {name: tuple(tensor.shape) for name, tensor in weights.items()}
    share, name = max((_share(shapes, body), name) for name, shapes in _architectures())
    if share >= ENOUGH:
        return name
    if share > 0.3:
        return f'something like {name}'
    if not weights:
        return 'no weights'
    return f'no backbone of mmdat, but {enumerate_names(sorted(weights), most=2)}'


def _share(expected: Shapes, given: Shapes) -> float:
    """Share of an architecture's parameters that weights have, with shapes that fit."""
    fitting = sum(
        # Bias tables are resized to the image or the window.
        given.get(name) == shape or (name.endswith('table') and name in given)
        for name, shape in expected.items()
    )
    return fitting / max(len(expected), len(given) / 2)


@functools.cache
def _architectures() -> tuple[tuple[str, Shapes], ...]:
    """Name and parameters of each architecture that has a name, in our names and the authors'."""
    return tuple(_each_architecture())


def _each_architecture() -> Iterator[tuple[str, Shapes]]:
    for family in MODELS.module_dict.values():
        for arch in getattr(family, 'ARCHITECTURES', ()):
            with torch.device('meta'):
                backbone = family(arch)
            ours = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
            name = f"a {family.__name__} '{arch}'"
            yield name, ours
            theirs = published_names(backbone)
            yield f'{name} {AUTHORS}', {theirs.get(key, key): shape for key, shape in ours.items()}
