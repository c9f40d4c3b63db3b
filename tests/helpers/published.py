"""Checkpoints such as the authors published, and models that they fill."""

import copy
import functools
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from helpers import golden
from mmdat.checkpoints import published_names
from mmdat.models import DAT, DATPlusPlus, ScalableViT
from mmdat.registry import MODELS

CLASSIFIERS = {'dat_nano': DAT, 'dat_pp_nano': DATPlusPlus, 'scalablevit_nano': ScalableViT}


def classifier_checkpoint(name: str) -> dict[str, Any]:
    """A classifier's checkpoint as its authors' code saves it, with a fixture's weights."""
    return {'model': golden.make_state_dict(golden.load(name)['manifest'])}


def mask_rcnn() -> nn.Module:
    """A Mask R-CNN of mmdet on DAT++ nano, with few channels."""
    return copy.deepcopy(_mask_rcnn())


@functools.cache
def _mask_rcnn() -> nn.Module:
    narrow = dict(in_channels=8)
    with DefaultScope.overwrite_default_scope('mmdet'):
        import mmdet.models  # noqa: F401  registers the modules below

        return MODELS.build(
            Config(
                dict(
                    model=dict(
                        type='mmdet.MaskRCNN',
                        backbone=dict(type='mmdat.DATPlusPlus', arch='nano'),
                        neck=dict(
                            type='FPN', in_channels=[16, 32, 64, 128], out_channels=8, num_outs=5
                        ),
                        rpn_head=dict(
                            type='RPNHead',
                            in_channels=8,
                            feat_channels=8,
                            anchor_generator=dict(
                                type='AnchorGenerator',
                                scales=[8],
                                ratios=[1.0],
                                strides=[4, 8, 16, 32, 64],
                            ),
                            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
                        ),
                        roi_head=dict(
                            type='StandardRoIHead',
                            bbox_roi_extractor=dict(
                                type='SingleRoIExtractor',
                                out_channels=8,
                                featmap_strides=[4, 8, 16, 32],
                                roi_layer=dict(type='RoIAlign', output_size=7),
                            ),
                            bbox_head=dict(
                                type='Shared2FCBBoxHead',
                                fc_out_channels=8,
                                num_classes=2,
                                bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
                                **narrow,
                            ),
                            mask_roi_extractor=dict(
                                type='SingleRoIExtractor',
                                out_channels=8,
                                featmap_strides=[4, 8, 16, 32],
                                roi_layer=dict(type='RoIAlign', output_size=14),
                            ),
                            mask_head=dict(
                                type='FCNMaskHead',
                                num_convs=1,
                                conv_out_channels=8,
                                num_classes=2,
                                **narrow,
                            ),
                        ),
                        train_cfg=dict(rpn=None, rcnn=None),
                        test_cfg=dict(rpn=None, rcnn=None),
                    )
                )
            ).model
        )


def upernet() -> nn.Module:
    """An UPerNet of mmseg on DAT++ nano, with few channels."""
    return copy.deepcopy(_upernet())


@functools.cache
def _upernet() -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmseg'):
        import mmseg.models  # noqa: F401  registers the modules below

        head = dict(num_classes=3, channels=8, norm_cfg=dict(type='BN'))
        return MODELS.build(
            Config(
                dict(
                    model=dict(
                        type='mmseg.EncoderDecoder',
                        backbone=dict(type='mmdat.DATPlusPlus', arch='nano'),
                        decode_head=dict(
                            type='UPerHead',
                            in_channels=[16, 32, 64, 128],
                            in_index=[0, 1, 2, 3],
                            pool_scales=(1, 2),
                            **head,
                        ),
                        auxiliary_head=dict(
                            type='FCNHead', in_channels=64, in_index=2, num_convs=1, **head
                        ),
                        test_cfg=dict(mode='whole'),
                    )
                )
            ).model
        )


def dense_checkpoint(model: nn.Module) -> dict[str, Any]:
    """What mmdet 2.x or mmseg 0.x would have saved of ``model``, with random weights."""
    names = published_names(model.backbone)
    state = {}
    for name, tensor in model.state_dict().items():
        name = name.removeprefix('backbone.')
        name = f'backbone.{names[name]}' if name in names else name
        state[name] = torch.randn_like(tensor) if tensor.is_floating_point() else tensor + 5
    state['backbone.stages.0.attns.0.relative_position_index'] = torch.zeros(49, 49).long()
    return {'meta': dict(epoch=12, CLASSES=('a', 'b')), 'state_dict': state}
