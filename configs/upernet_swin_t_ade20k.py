_base_ = ['./_base_/upernet.py', './_base_/ade20k_160k.py']
model = dict(
    backbone=dict(type='SwinTransformer', drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
