_base_ = [
    './_base_/models/mask_rcnn.py', './_base_/datasets/coco_instance.py',
    './_base_/schedules/coco_1x.py', './_base_/runtime/mmdet.py',
]
model = dict(
    backbone=dict(
        type='SwinTransformer', drop_path_rate=0.2, convert_weights=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/'
                       'v1.0.0/swin_tiny_patch4_window7_224.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]))
