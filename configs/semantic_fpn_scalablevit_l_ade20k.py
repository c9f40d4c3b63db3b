_base_ = ['./_base_/semantic_fpn.py', './_base_/ade20k_80k.py']
model = dict(
    backbone=dict(type='mmdat.ScalableViT', arch='large', drop_path_rate=0.5),
    neck=dict(in_channels=[128, 256, 512, 1024]))
