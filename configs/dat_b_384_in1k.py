_base_ = '_base_/in1k_384.py'
model = dict(
    backbone=dict(type='mmdat.DAT', arch='base_384', drop_path_rate=0.5),
    head=dict(in_channels=1024))
