"""Turn a checkpoint that the authors published into an ordinary OpenMMLab checkpoint."""

import os
from pathlib import Path

import safetensors.torch
import torch

from mmdat.checkpoints import convert_published_checkpoint, read_weights
from mmdat.checkpoints.conversion import find_backbone
from mmdat.checks.config_file import read_config
from mmdat.checks.exceptions import explained
from mmdat.checks.run import check_parts
from mmdat.errors import UserError
from mmdat.files import whole_file
from mmdat.models.backbones.base import HierarchicalBackbone
from mmdat.registry import MODELS
from mmdat.version import __version__


def convert_published_file(source: str, target: str, config: str | None = None) -> str:
    """Write ``target``, with the weights of ``source`` under the names of an OpenMMLab model.

    Args:
        source: A published checkpoint: a classifier's, a detector's or a segmentor's.
        target: File to write; as safetensors, without ``meta``, if it has that suffix.
        config: Config of a model with the checkpoint's backbone. Not needed for the architectures
            that have a name, which are known by their shapes.

    Returns:
        The class of the backbone.

    Raises:
        UserError: If a file cannot be read, or if the checkpoint fits no named architecture or not
            the config's; ``target`` is then left as it was.
    """
    if not Path(target).absolute().parent.is_dir():
        raise UserError(f'there is no folder for {target}: make it first')
    weights = read_weights(source)
    backbone = find_backbone(source, weights) if config is None else _build(config)
    converted = convert_published_checkpoint(backbone, weights)
    meta = dict(mmdat_version=__version__, converted_from=os.path.basename(source))
    with whole_file(Path(target)) as file:
        if Path(target).suffix == '.safetensors':
            contiguous = {name: tensor.contiguous() for name, tensor in converted.items()}
            safetensors.torch.save_file(contiguous, file)
        else:
            torch.save(dict(meta=meta, state_dict=converted), file)
    return type(backbone).__name__


def _build(config: str) -> HierarchicalBackbone:
    cfg = read_config(config)
    check_parts(cfg, ('model.backbone',))
    with explained(cfg), torch.device('meta'):
        return MODELS.build(dict(cfg.model.backbone, init_cfg=None))
