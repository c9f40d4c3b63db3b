_base_ = ['./_base_/semantic_fpn.py', './_base_/ade20k_80k.py']
model = dict(
    backbone=dict(type='mmdat.DAT', arch='small', drop_path_rate=0.3),
    neck=dict(in_channels=[96, 192, 384, 768]))
