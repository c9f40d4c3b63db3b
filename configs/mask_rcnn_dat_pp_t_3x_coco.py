_base_ = [
    './_base_/mask_rcnn.py', './_base_/coco_instance.py', './_base_/coco_3x.py',
    './_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmdat.DATPlusPlus', arch='tiny', drop_path_rate=0.3),
    neck=dict(in_channels=[64, 128, 256, 512]))
