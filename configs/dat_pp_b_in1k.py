_base_ = '_base_/in1k.py'
model = dict(
    backbone=dict(type='mmdat.DATPlusPlus', arch='base', drop_path_rate=0.7),
    head=dict(in_channels=1024))
