"""Layers that the backbones share."""

import pytest
import torch
from mmcv.cnn.bricks import DropPath as DropPathOfMMCV

from mmdat.models.layers import DropPath


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('training', [True, False])
def test_drop_path_draws_and_computes_what_mmcv_does(dtype: torch.dtype, training: bool) -> None:
    x = torch.randn(64, 3, 2, 2).to(dtype)
    results = []
    for layer in (DropPath(0.3), DropPathOfMMCV(0.3)):
        torch.manual_seed(0)
        results.append(layer.train(training)(x))
    assert torch.equal(*results)
    dropped = (results[0].flatten(1) == 0).all(1).sum()
    assert 10 < dropped < 30 if training else dropped == 0
