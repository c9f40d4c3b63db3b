_base_ = '_base_/in1k.py'
model = dict(
    backbone=dict(type='mmdat.DATPlusPlus', arch='tiny', drop_path_rate=0.2),
    head=dict(in_channels=512))
