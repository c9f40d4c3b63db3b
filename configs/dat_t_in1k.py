_base_ = '_base_/in1k.py'
model = dict(
    backbone=dict(type='mmdat.DAT', arch='tiny', drop_path_rate=0.2),
    head=dict(in_channels=768))
