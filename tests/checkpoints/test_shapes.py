"""Models are built without values, as fast as their names and shapes allow."""

import pytest
import torch
from torch import nn

from mmdat.checkpoints.shapes import without_values
from mmdat.models import DAT, DATPlusPlus, ScalableViT


@pytest.mark.parametrize('family', [DAT, DATPlusPlus, ScalableViT])
def test_names_shapes_and_types_are_those_of_a_model_with_values(family: type[nn.Module]) -> None:
    expected = family('nano').state_dict()
    with without_values():
        found = family('nano').state_dict()
    assert all(tensor.is_meta for tensor in found.values())
    assert [(k, v.shape, v.dtype, v.requires_grad) for k, v in found.items()] == [
        (k, v.shape, v.dtype, v.requires_grad) for k, v in expected.items()
    ]


def test_what_has_values_keeps_them() -> None:
    with without_values():
        given = torch.ones(2, device='cpu').mul_(3)
        layer = nn.init.constant_(nn.Linear(1, 1, device='cpu').weight, 5)
    assert given.tolist() == [3, 3] and layer.item() == 5
