_base_ = [
    './_base_/models/cascade_mask_rcnn.py', './_base_/datasets/coco_instance.py',
    './_base_/schedules/coco_1x.py', './_base_/runtime/mmdet.py',
]
model = dict(
    backbone=dict(type='mmdat.DAT', arch='small', drop_path_rate=0.3),
    neck=dict(in_channels=[96, 192, 384, 768]))
