"""Which architecture a checkpoint's weights are of, told by their names and shapes."""

import functools
from collections.abc import Mapping

from torch import Tensor

from mmdat.errors import enumerate_names
from mmdat.registry import MODELS

from .layout import published_names
from .reading import strip_prefix
from .shapes import without_values

# Share of an architecture's parameters that weights must have to be called by its name, whatever
# output norms and heads they have, and to be called like it.
ENOUGH, SIMILAR = 0.9, 0.3
# Said of weights in the files that the authors published.
AUTHORS = "in its authors' names"
# How the names of weights begin beside a backbone -> what it is in; the first that is there counts.
SURROUNDINGS = {
    'roi_head.mask_head.0.': 'a Cascade Mask R-CNN',
    'roi_head.bbox_head.0.': 'a Cascade R-CNN',
    'roi_head.mask_head.': 'a Mask R-CNN',
    'roi_head.': 'a Faster R-CNN',
    'panoptic_head.': 'a detector of masks',
    'decoder.': 'a DETR',
    'bbox_head.': 'a one-stage detector',
    'decode_head.': 'a segmentor',
    'head.': 'a classifier',
}

Shapes = dict[str, tuple[int, ...]]


def recognize(weights: Mapping[str, Tensor]) -> str:
    """Say what weights are of, such as ``a DATPlusPlus 'tiny' in a classifier``.

    Args:
        weights: Tensors by name, also the authors', of a backbone alone or a whole model.
    """
    if not weights:
        return 'no weights'
    body = strip_prefix(weights, 'backbone.')
    parts = SURROUNDINGS.items() if body else ()
    within = (whole for part, whole in parts if any(name.startswith(part) for name in weights))
    place = next((f' in {whole}' for whole in within), '')
    given = {name: tuple(tensor.shape) for name, tensor in (body or weights).items()}
    share, name = max((_share(shapes, given), name) for name, shapes in _architectures())
    if share >= ENOUGH:
        return f'{name}{place}'
    if share > SIMILAR:
        return f'something like {name}{place}'
    share, name = max(
        (_share(shapes, given, any_shape=True), name) for name, shapes in _architectures()
    )
    if share >= ENOUGH:
        return f'{name} of other widths{place}'
    return f'no backbone of mmdat, but {enumerate_names(sorted(weights), most=2)}'


def _share(expected: Shapes, given: Shapes, any_shape: bool = False) -> float:
    """Share of an architecture's parameters that weights have, with shapes that fit or any."""
    fitting = sum(
        # Bias tables are resized to the image or the window.
        given.get(name) == shape or ((any_shape or name.endswith('table')) and name in given)
        for name, shape in expected.items()
    )
    return fitting / max(len(expected), len(given) / 2)


@functools.cache
def _architectures() -> list[tuple[str, Shapes]]:
    """Name and parameters of each architecture that has a name, in our names and the authors'."""
    found = []
    for family in MODELS.module_dict.values():
        for arch in getattr(family, 'ARCHITECTURES', ()):
            with without_values():
                backbone = family(arch)
            ours = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
            theirs = published_names(backbone)
            name = f"a {family.__name__} '{arch}'"
            found.append((name, ours))
            found.append((f'{name} {AUTHORS}', {theirs.get(k, k): ours[k] for k in ours}))
    return found
