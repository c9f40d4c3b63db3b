"""Published checkpoints as ordinary ones, whatever their architecture."""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from mmdat.errors import UserError
from mmdat.registry import MODELS

from .layout import PublishedBackbone
from .matching import convert_published_checkpoint
from .reading import read_weights
from .recognition import recognize
from .shapes import without_values

FAMILIES = ('DAT', 'DATPlusPlus', 'ScalableViT')


def converted(source: str, content: Any) -> dict[str, Any]:
    """A published checkpoint as an ordinary one of OpenMMLab.

    Raises:
        UserError: If it fits none of the named architectures.
    """
    weights = read_weights(content)
    return dict(state_dict=convert_published_checkpoint(find_backbone(source, weights), weights))


def find_backbone(source: str, weights: Mapping[str, Tensor]) -> PublishedBackbone:
    """The named architecture whose names and shapes published weights have, without weights.

    Raises:
        UserError: If it is none of them; says what differs from those that it is like.
    """
    refusals = {}
    for name, backbone in _architectures(_pretrain_img_size(weights)):
        try:
            convert_published_checkpoint(backbone, weights)
        except UserError as error:
            refusals[name] = error
            continue
        return backbone
    held = recognize(weights)
    raise UserError(
        f'{source} is of none of the architectures that have a name, but holds {held}: give '
        '--config to tools/model_converters/convert_published.py, with a model that has the '
        "checkpoint's backbone. "
        f'{"; ".join(str(error) for name, error in refusals.items() if name in held)}'.rstrip()
    )


def _architectures(pretrain_img_size: int) -> Iterator[tuple[str, PublishedBackbone]]:
    for family in FAMILIES:
        for arch in MODELS.get(family).ARCHITECTURES:
            yield f"{family} '{arch}'", _without_weights(family, arch, pretrain_img_size)


@functools.cache
def _without_weights(family: str, arch: str, pretrain_img_size: int) -> PublishedBackbone:
    with without_values():
        return MODELS.get(family)(arch, pretrain_img_size=pretrain_img_size)


def _pretrain_img_size(weights: Mapping[str, Tensor]) -> int:
    """Image size of the pretraining, from the side ``2 * map - 1`` of a bias table; else 224."""
    for name, tensor in weights.items():
        match = re.search(r'stages\.(\d+)\.attns\.\d+\.rpe_table$', name)
        if match and tensor.ndim == 3:
            return (tensor.shape[1] + 1) // 2 * 4 * 2 ** int(match[1])
    return 224
