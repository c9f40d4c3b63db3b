_base_ = [
    './_base_/models/mask_rcnn.py', './_base_/datasets/coco_instance.py',
    './_base_/schedules/coco_3x.py', './_base_/runtime/mmdet.py',
]
model = dict(
    backbone=dict(type='mmdat.DATPlusPlus', arch='tiny', drop_path_rate=0.3),
    neck=dict(in_channels=[64, 128, 256, 512]))
