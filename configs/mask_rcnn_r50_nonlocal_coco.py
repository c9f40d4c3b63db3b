# A block in each of the six residual blocks of stage 4 (conv4_x), as mmdet places plugins.
_base_ = [
    './_base_/models/mask_rcnn.py', './_base_/datasets/coco_instance.py',
    './_base_/schedules/coco_1x.py', './_base_/runtime/mmdet.py',
]
model = dict(
    backbone=dict(
        type='ResNet', depth=50, norm_eval=True, frozen_stages=1,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
        plugins=[dict(
            cfg=dict(type='NonLocal2d'), stages=(False, False, True, False),
            position='after_conv3')]),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
