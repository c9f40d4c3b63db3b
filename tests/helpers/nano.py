"""One config of each head of each task, with a nano backbone and for small images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.datasets import ImageNet
from mmseg.datasets import ADE20KDataset

from mmdat.checks.config_tree import replace_values

from . import zoo
from .configs import load

# Channels of a nano backbone's stages, and of what is built on them.
FOUR_MAPS = [16, 32, 64, 128]
NARROW_BOXES = dict(fc_out_channels=32)
NARROW_MASKS = dict(num_convs=1, conv_out_channels=32)
# Name of a config -> what its model needs for a nano backbone and to be fast.
HEADS: dict[str, dict[str, Any]] = {
    'retinanet_dat_t_coco': {'neck.in_channels': FOUR_MAPS[1:]},
    'mask_rcnn_scalablevit_s_coco': {
        'neck.in_channels': FOUR_MAPS,
        'roi_head.bbox_head': NARROW_BOXES,
        'roi_head.mask_head': NARROW_MASKS,
    },
    'cascade_mask_rcnn_dat_pp_t_coco': {
        'neck.in_channels': FOUR_MAPS,
        **{f'roi_head.bbox_head.{stage}': NARROW_BOXES for stage in range(3)},
        'roi_head.mask_head': NARROW_MASKS,
    },
    'dino_dat_pp_t_coco': {'neck.in_channels': FOUR_MAPS[1:]},
    'detr_dat_pp_t_coco': {'neck.in_channels': FOUR_MAPS[3:]},
    'mask2former_dat_pp_t_coco': {'panoptic_head.in_channels': FOUR_MAPS},
    'upernet_dat_t_ade20k': {
        'decode_head': dict(in_channels=FOUR_MAPS, channels=16),
        'auxiliary_head': dict(in_channels=FOUR_MAPS[2], channels=16),
    },
    'semantic_fpn_scalablevit_s_ade20k': {'neck.in_channels': FOUR_MAPS},
    'mask2former_dat_pp_t_ade20k': {'decode_head.in_channels': FOUR_MAPS},
    'dat_t_in1k': {'head.in_channels': FOUR_MAPS[3]},
    'dat_pp_t_in1k': {'head.in_channels': FOUR_MAPS[3]},
    'scalablevit_s_in1k': {'head.in_channels': FOUR_MAPS[3]},
}
METAINFO = dict(
    mmdet=CocoDataset.METAINFO, mmseg=ADE20KDataset.METAINFO, mmpretrain=ImageNet.METAINFO
)
DETECTORS = [name for name in HEADS if name.endswith('_coco')]
SEGMENTORS = [name for name in HEADS if name.endswith('_ade20k')]
CLASSIFIERS = [name for name in HEADS if name.endswith('_in1k')]


def nano_config(name: str) -> Config:
    """The config of that name for what ``zoo.draw_data`` draws, with a nano backbone."""
    cfg = load(name)
    zoo.shrink(cfg)
    replace_values(cfg.model, 'max_per_img', 20, 5)
    changes = {'backbone.arch': 'nano', **HEADS[name]}
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline  # mmseg's inference_model takes it
    return cfg


def write_nano(name: str, folder: Path) -> tuple[str, str]:
    """Write a nano config and a checkpoint with random weights, as a training does.

    Returns:
        Paths of both.
    """
    return write_model(nano_config(name), name, folder)


def write_model(cfg: Config, name: str, folder: Path) -> tuple[str, str]:
    """Write a config and a checkpoint with random weights; returns their paths."""
    config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
    cfg.dump(config)
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        with pytest.MonkeyPatch.context() as patch:
            # A page that was served has closed the log that mmengine would write this to.
            patch.setattr(BaseModule, '_dump_init_info', lambda module: None)
            model.init_weights()  # some parameters of the toolboxes are memory as it was before
    meta = dict(cfg=config.read_text(), dataset_meta=METAINFO[cfg.default_scope])
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    return str(config), str(checkpoint)
