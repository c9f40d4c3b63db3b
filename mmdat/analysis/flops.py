"""Parameters, multiply-accumulates (MACs) and memory of a config's model, for one image."""

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from rich.console import Console
from rich.table import Table
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import mmdat.ops.flops  # noqa: F401  so that mmdat's operators are counted
from mmdat.apis.model import build_model
from mmdat.apis.toolboxes import in_toolbox, toolbox_of
from mmdat.ops import prefer_implementation

from .measure import TensorMemory
from .model import image_shape, refuse_shape
from .synthetic import synthetic_batch


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
        peak_memory: Bytes that tensors take at most, weights and image among them.
    """

    shape: tuple[int, int]
    parameters: int
    backbone_parameters: int
    macs: int
    backbone_macs: int
    not_counted: tuple[str, ...]
    peak_memory: int


def count_complexity(cfg: Config, shape: Sequence[int] | None = None) -> Complexity:
    """Count the parameters of a config's model, and the MACs and the memory of one image.

    Counted are matrix products, convolutions and the products of queries with keys and weights with
    values. Not counted are norms, elementwise operations, sampling at points, and what mmcv
    computes in its own kernels. A classifier runs to its scores, a segmentor to its map on the
    whole image. A detector runs through its heads, two-stage ones for the best proposals and the
    masks of the first 100. Parameters are those of training, with those of auxiliary heads.

    Memory is that of the tensors in use at once in float32, without gradients, and not what an
    operator takes while it computes, nor what the allocator keeps.

    The model runs on tensors without content, which takes seconds and gives the same on every
    machine; one that needs values runs on the CPU, with random weights.

    Args:
        cfg: The config, of mmdet, mmsegmentation or mmpretrain.
        shape: Height and width of the image; None for 800 x 1280 (detection), 512 x 512
            (segmentation) or the config's (classification).

    Raises:
        UserError: For a mistake in the config or the shape.
    """
    shape = image_shape(cfg, shape)
    # A model that needs values fails in many ways without; so does a mistake, which fails again.
    with contextlib.suppress(Exception):
        return _count(cfg, shape, with_values=False)
    return _count(cfg, shape, with_values=True)


def _count(cfg: Config, shape: tuple[int, int], with_values: bool) -> Complexity:
    cfg = copy.deepcopy(cfg)  # mmdet changes the config of some models that it builds
    toolbox = toolbox_of(cfg).name
    batch: dict[str, Any] = synthetic_batch(cfg, 1, shape)
    batch['inputs'] = torch.stack(batch['inputs'])  # lists are padded by values
    if toolbox == 'mmpretrain':
        del batch['data_samples']  # labels, which are needed for losses alone
    tensors = (
        contextlib.nullcontext() if with_values else FakeTensorMode(allow_non_fake_inputs=True)
    )
    with tensors, torch.no_grad():
        with in_toolbox(cfg):
            torch.manual_seed(0)  # proposals depend on the weights
            model = build_model(cfg).eval()
            if toolbox == 'mmdet':
                from .proposals import choose_without_values, limit_masks

                limit_masks(model)
                if not with_values:
                    choose_without_values(model)
            if toolbox == 'mmseg':
                model.test_cfg['mode'] = 'whole'
            batch = model.data_preprocessor(batch)
        # mmsegmentation's Mask2Former has no mode 'tensor'.
        mode = 'predict' if toolbox == 'mmseg' else 'tensor'
        # Fused attention would count the zeros that pad values to the width of keys.
        with (
            TensorMemory(*model.parameters(), *model.buffers(), batch['inputs']) as memory,
            FlopCounterMode(display=False) as counter,
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
        memory.peak,
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
    print(f'Memory of its tensors in float32: {complexity.peak_memory / 1e9:.3f} GB at most')
    if complexity.not_counted:
        print(f"Not counted: what mmcv's kernels compute in {', '.join(complexity.not_counted)}")


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _layers_of_mmcv(model: BaseModel) -> tuple[str, ...]:
    """Names of the layers that compute in mmcv's own kernels."""
    kinds = {type(module) for module in model.modules()}
    return tuple(sorted(kind.__name__ for kind in kinds if kind.__module__.startswith('mmcv.ops.')))
