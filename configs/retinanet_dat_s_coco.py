_base_ = [
    './_base_/models/retinanet.py', './_base_/datasets/coco_detection.py',
    './_base_/schedules/retinanet_1x.py', './_base_/runtime/mmdet.py',
]
model = dict(
    backbone=dict(type='mmdat.DAT', arch='small', drop_path_rate=0.3),
    neck=dict(in_channels=[192, 384, 768]))
