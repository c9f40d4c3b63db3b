"""Which architecture a checkpoint's weights are of, told by their names and shapes."""

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from mmdat.errors import enumerate_names
from mmdat.registry import MODELS

from .layout import published_names
from .reading import strip_prefix

# Share of an architecture's parameters that weights must have to be called by its name, whatever
# output norms and heads they have, and to be called like it.
ENOUGH, SIMILAR = 0.9, 0.3
# Said of weights in the files that the authors published.
AUTHORS = "in its authors' names"

Shapes = dict[str, tuple[int, ...]]


def recognize(weights: Mapping[str, Tensor]) -> str:
    """Say what weights are of, such as ``a DATPlusPlus 'tiny'``, also in the authors' names.

    Args:
        weights: Tensors by name, a backbone's alone or a whole model's.
    """
    if not weights:
        return 'no weights'
    body = strip_prefix(weights, 'backbone.') or weights
    given = {name: tuple(tensor.shape) for name, tensor in body.items()}
    share, name = max((_share(shapes, given), name) for name, shapes in _architectures())
    if share >= ENOUGH:
        return name
    if share > SIMILAR:
        return f'something like {name}'
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
def _architectures() -> list[tuple[str, Shapes]]:
    """Name and parameters of each architecture that has a name, in our names and the authors'."""
    found = []
    for family in MODELS.module_dict.values():
        for arch in getattr(family, 'ARCHITECTURES', ()):
            with torch.device('meta'):
                backbone = family(arch)
            ours = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
            theirs = published_names(backbone)
            name = f"a {family.__name__} '{arch}'"
            found.append((name, ours))
            found.append((f'{name} {AUTHORS}', {theirs.get(k, k): ours[k] for k in ours}))
    return found
