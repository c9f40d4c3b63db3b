_base_ = [
    './_base_/mask_rcnn.py', './_base_/coco_instance.py', './_base_/coco_1x.py',
    './_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmdat.DAT', arch='base', drop_path_rate=0.5),
    neck=dict(in_channels=[128, 256, 512, 1024]))
