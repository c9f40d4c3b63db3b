"""How large a model is, and how much arithmetic an image costs it."""

from collections.abc import Callable, Sequence
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

import mmdat.ops.flop_formulas  # noqa: F401  so that mmdat's operators are counted
from mmdat.checks.exceptions import explained
from mmdat.ops import prefer_implementation

from .analysis import build_model, image_shape, made_batch, refuse_shape
from .toolboxes import toolbox_of

# Of an image, as MMDetection counts them for Mask R-CNN, and counted them for Cascade Mask R-CNN
# when the papers did; its 3.x masks all 1000 proposals of the latter.
NUM_MASKS = 100


@dataclass(frozen=True)
class Complexity:
    """Parameters and multiply-accumulates (MACs) of a model for one image.

    A model without a backbone has all of them in the rest.
    """

    shape: tuple[int, int]
    parameters: int
    backbone_parameters: int
    macs: int
    backbone_macs: int
    not_counted: tuple[str, ...]  # layers of mmcv whose own arithmetic PyTorch does not see


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
            _mask_few(model.roi_head.mask_head)
        if toolbox_of(cfg).name == 'mmseg':
            model.test_cfg['mode'] = 'whole'
        batch = model.data_preprocessor(made_batch(cfg, 1, shape))
    # Mask2Former of mmsegmentation has no mode 'tensor'.
    mode = 'predict' if toolbox_of(cfg).name == 'mmseg' else 'tensor'
    # Fused attention would be counted with the zeros that fill up values to the width of keys.
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
        _parameters(model),
        _parameters(backbone),
        counter.get_total_flops() // 2,
        backbone_flops // 2,
        _kernels_of_mmcv(model),
    )


def print_complexity(complexity: Complexity) -> None:
    """Print a table, and what is missing from it."""
    height, width = complexity.shape
    table = Table('', 'parameters (M)', 'MACs (G)', title=f'One image of {height} x {width}')
    backbone = complexity.backbone_parameters, complexity.backbone_macs
    whole = complexity.parameters, complexity.macs
    rest = [all_ - part for all_, part in zip(whole, backbone, strict=True)]
    for name, (parameters, macs) in (('backbone', backbone), ('rest', rest), ('model', whole)):
        table.add_row(name, f'{parameters / 1e6:.2f}', f'{macs / 1e9:.2f}')
    Console().print(table)
    if complexity.not_counted:
        print(f"Not counted: what mmcv's kernels compute in {', '.join(complexity.not_counted)}")


def _mask_few(heads: Sequence[nn.Module]) -> None:
    """Let mask heads compute the first masks alone; the others are empty."""

    def few(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def masks(features: Tensor) -> Tensor:
            computed = forward(features[:NUM_MASKS])
            return F.pad(computed, (0, 0) * 3 + (0, len(features) - len(computed)))

        return masks

    for head in heads:
        head.forward = few(head.forward)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _kernels_of_mmcv(model: BaseModel) -> tuple[str, ...]:
    return tuple(
        sorted(
            {
                type(module).__name__
                for module in model.modules()
                if type(module).__module__.startswith('mmcv.ops.')
            }
        )
    )
