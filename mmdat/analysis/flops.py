"""Parameters and multiply-accumulates (MACs) of a config's model, for one image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmdet.models.roi_heads import CascadeRoIHead
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import mmdat.ops.flops  # noqa: F401  so that mmdat's operators are counted
from mmdat.apis.building import build_model
from mmdat.apis.toolboxes import toolbox_of
from mmdat.checks.exceptions import explained
from mmdat.ops import prefer_implementation

from .model import image_shape, refuse_shape
from .synthetic import synthetic_batch

# Masks of an image that are counted for Cascade Mask R-CNN. The papers counted 100, as MMDetection
# did then and still does for Mask R-CNN; MMDetection 3.x predicts masks for all 1000 proposals.
NUM_MASKS = 100


@dataclass(frozen=True)
class Complexity:
    """Size and cost of a model.

    Attributes:
        shape: Height and width of the image.
        parameters: Parameters of the model.
        backbone_parameters: Those of its backbone; 0 if it has none.
        macs: Multiply-accumulates for the image.
        backbone_macs: Those of the backbone.
        not_counted: Layers of mmcv whose own arithmetic PyTorch does not see.
    """

    shape: tuple[int, int]
    parameters: int
    backbone_parameters: int
    macs: int
    backbone_macs: int
    not_counted: tuple[str, ...]


def count_complexity(cfg: Config, shape: Sequence[int] | None = None) -> Complexity:
    """Count the parameters of a config's model, and the MACs of one image.

    Counted are matrix products, convolutions and the products of queries with keys and weights with
    values. Not counted are norms, elementwise operations, sampling at points, and what mmcv
    computes in its own kernels. A classifier runs to its scores, a segmentor to its map on the
    whole image. A detector runs through its heads, two-stage ones for the best proposals and the
    masks of the first 100. Parameters are those of training, with those of auxiliary heads.

    The model runs once on the CPU, with random weights.

    Args:
        cfg: The config, of mmdet, mmsegmentation or mmpretrain.
        shape: Height and width of the image; None for 800 x 1280 (detection), 512 x 512
            (segmentation) or the config's (classification).

    Raises:
        UserError: For a mistake in the config or the shape.
    """
    shape = image_shape(cfg, shape)
    with DefaultScope.overwrite_default_scope(toolbox_of(cfg).name), explained(cfg):
        torch.manual_seed(0)  # proposals depend on the weights
        model = build_model(cfg).eval()
        if isinstance(getattr(model, 'roi_head', None), CascadeRoIHead) and model.with_mask:
            for head in model.roi_head.mask_head:
                _limit_masks(head)
        if toolbox_of(cfg).name == 'mmseg':
            model.test_cfg['mode'] = 'whole'
        batch = model.data_preprocessor(synthetic_batch(cfg, 1, shape))
    # mmsegmentation's Mask2Former has no mode 'tensor'.
    mode = 'predict' if toolbox_of(cfg).name == 'mmseg' else 'tensor'
    # Fused attention would count the zeros that pad values to the width of keys.
    with (
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
        refuse_shape(shape),
        prefer_implementation('tiled'),
    ):
        model(**batch, mode=mode)
    backbone = getattr(model, 'backbone', nn.Identity())
    by_module = counter.get_flop_counts()
    backbone_flops = sum(by_module[f'{type(model).__name__}.backbone'].values())
    return Complexity(
        shape,
        _num_parameters(model),
        _num_parameters(backbone),
        counter.get_total_flops() // 2,
        backbone_flops // 2,
        _layers_of_mmcv(model),
    )


def print_complexity(complexity: Complexity) -> None:
    """Print a table, and which layers it leaves out."""
    height, width = complexity.shape
    table = Table('', 'parameters (M)', 'MACs (G)', title=f'One image of {height} x {width}')
    rest = (
        complexity.parameters - complexity.backbone_parameters,
        complexity.macs - complexity.backbone_macs,
    )
    for name, parameters, macs in (
        ('backbone', complexity.backbone_parameters, complexity.backbone_macs),
        ('rest', *rest),
        ('model', complexity.parameters, complexity.macs),
    ):
        table.add_row(name, f'{parameters / 1e6:.2f}', f'{macs / 1e9:.2f}')
    Console().print(table)
    if complexity.not_counted:
        print(f"Not counted: what mmcv's kernels compute in {', '.join(complexity.not_counted)}")


def _limit_masks(head: nn.Module) -> None:
    """Let a mask head compute the first masks alone, and return zeros for the others."""
    forward = head.forward

    def forward_first(features: Tensor) -> Tensor:
        computed = forward(features[:NUM_MASKS])
        return F.pad(computed, (0, 0) * 3 + (0, len(features) - len(computed)))

    head.forward = forward_first


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _layers_of_mmcv(model: BaseModel) -> tuple[str, ...]:
    """Names of the layers that compute in mmcv's own kernels."""
    kinds = {type(module) for module in model.modules()}
    return tuple(sorted(kind.__name__ for kind in kinds if kind.__module__.startswith('mmcv.ops.')))
