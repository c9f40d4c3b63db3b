_base_ = [
    './_base_/models/retinanet.py', './_base_/datasets/coco_detection.py',
    './_base_/schedules/retinanet_3x.py', './_base_/runtime/mmdet.py',
]
model = dict(
    backbone=dict(type='mmdat.DATPlusPlus', arch='tiny', drop_path_rate=0.2),
    neck=dict(in_channels=[128, 256, 512]))
