_base_ = [
    './_base_/models/semantic_fpn.py', './_base_/datasets/ade20k.py',
    './_base_/schedules/ade20k_80k.py', './_base_/runtime/mmseg.py',
]
model = dict(
    backbone=dict(type='mmdat.DAT', arch='base', drop_path_rate=0.5),
    neck=dict(in_channels=[128, 256, 512, 1024]))
