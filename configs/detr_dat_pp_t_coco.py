_base_ = './_base_/detr.py'
model = dict(
    backbone=dict(arch='tiny', drop_path_rate=0.2),
    neck=dict(in_channels=[512]))
