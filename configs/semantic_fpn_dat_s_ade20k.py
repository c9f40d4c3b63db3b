_base_ = [
    './_base_/models/semantic_fpn.py', './_base_/datasets/ade20k.py',
    './_base_/schedules/ade20k_80k.py', './_base_/runtime/mmseg.py',
]
model = dict(
    backbone=dict(type='mmdat.DAT', arch='small', drop_path_rate=0.3),
    neck=dict(in_channels=[96, 192, 384, 768]))
