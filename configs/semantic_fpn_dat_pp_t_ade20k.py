_base_ = ['./_base_/semantic_fpn.py', './_base_/ade20k_80k.py']
model = dict(
    backbone=dict(type='mmdat.DATPlusPlus', arch='tiny', drop_path_rate=0.4),
    neck=dict(in_channels=[64, 128, 256, 512]))
