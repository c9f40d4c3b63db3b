_base_ = ['./_base_/upernet.py', './_base_/ade20k_160k.py']
model = dict(
    backbone=dict(type='mmdat.DATPlusPlus', arch='small', drop_path_rate=0.5),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
