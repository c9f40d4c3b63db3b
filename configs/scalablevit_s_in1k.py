_base_ = [
    './_base_/models/classifier_scalablevit.py', './_base_/datasets/in1k.py',
    './_base_/schedules/in1k.py', './_base_/runtime/mmpretrain.py',
]
model = dict(
    backbone=dict(arch='small', drop_path_rate=0.2),
    head=dict(in_channels=512))
