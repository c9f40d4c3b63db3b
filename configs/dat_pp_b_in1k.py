_base_ = [
    './_base_/models/classifier.py', './_base_/datasets/in1k.py',
    './_base_/schedules/in1k.py', './_base_/runtime/mmpretrain.py',
]
model = dict(
    backbone=dict(type='mmdat.DATPlusPlus', arch='base', drop_path_rate=0.7),
    head=dict(in_channels=1024))
