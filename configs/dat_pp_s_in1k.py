_base_ = '_base_/in1k.py'
model = dict(
    backbone=dict(type='mmdat.DATPlusPlus', arch='small', drop_path_rate=0.4),
    head=dict(in_channels=768))
