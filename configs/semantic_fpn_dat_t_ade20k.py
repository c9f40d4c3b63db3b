_base_ = ['./_base_/semantic_fpn.py', './_base_/ade20k_80k.py']
model = dict(
    backbone=dict(type='mmdat.DAT', arch='tiny', drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]))
