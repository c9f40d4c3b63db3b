_base_ = '_base_/in1k.py'
model = dict(
    backbone=dict(type='mmdat.DAT', arch='small', drop_path_rate=0.3),
    head=dict(in_channels=768))
