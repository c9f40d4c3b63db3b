_base_ = [
    './_base_/models/classifier.py', './_base_/datasets/in1k.py',
    './_base_/schedules/in1k.py', './_base_/runtime/mmpretrain.py',
]
model = dict(
    backbone=dict(type='mmdat.DAT', arch='small', drop_path_rate=0.3),
    head=dict(in_channels=768))
