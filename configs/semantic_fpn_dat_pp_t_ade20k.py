_base_ = [
    './_base_/models/semantic_fpn.py', './_base_/datasets/ade20k.py',
    './_base_/schedules/ade20k_80k.py', './_base_/runtime/mmseg.py',
]
model = dict(
    backbone=dict(type='mmdat.DATPlusPlus', arch='tiny', drop_path_rate=0.4),
    neck=dict(in_channels=[64, 128, 256, 512]))
