_base_ = [
    './_base_/models/upernet.py', './_base_/datasets/ade20k_bs2.py',
    './_base_/schedules/ade20k_160k.py', './_base_/runtime/mmseg.py',
]
model = dict(
    backbone=dict(type='mmdat.DATPlusPlus', arch='tiny', drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256))
