"""Cost of models without computing anything: tensors on PyTorch's meta device have shapes alone."""

from pathlib import Path

import torch
from mmengine.registry import DefaultScope
from torch.utils.flop_counter import FlopCounterMode

import mmdat.ops.flops  # noqa: F401  so that mmdat's operators are counted
from mmdat.apis.model import build_model, load_config
from mmdat.checkpoints.shapes import without_values
from mmdat.ops import prefer_implementation

CONFIGS = Path(__file__).parents[2] / 'configs'


def count_on_meta(
    name: str, shape: tuple[int, int], backbone_only: bool = False
) -> tuple[int, int]:
    """Parameters of a config's model, and multiply-accumulates of it or its backbone.

    Two-stage detectors choose among proposals by value, so that only their backbone can be counted.
    """
    cfg = load_config(CONFIGS / f'{name}.py')
    cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope(cfg.default_scope), without_values():
        model = build_model(cfg).eval()
    with torch.device('meta'):
        image = torch.empty(1, 3, *shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), prefer_implementation('tiled'):
        if backbone_only:
            model.backbone(image)
        elif cfg.default_scope == 'mmseg':
            model.encode_decode(image, [dict(img_shape=shape, ori_shape=shape)])
        else:
            model(image, mode='tensor')
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters, counter.get_total_flops() // 2
