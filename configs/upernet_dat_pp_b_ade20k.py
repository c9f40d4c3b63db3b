_base_ = [
    './_base_/models/upernet.py', './_base_/datasets/ade20k_bs2.py',
    './_base_/schedules/ade20k_160k.py', './_base_/runtime/mmseg.py',
]
model = dict(
    backbone=dict(type='mmdat.DATPlusPlus', arch='base', drop_path_rate=0.7),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512))
