_base_ = [
    './_base_/models/mask_rcnn.py', './_base_/datasets/coco_instance.py',
    './_base_/schedules/coco_1x.py', './_base_/runtime/mmdet.py',
]
model = dict(
    backbone=dict(
        type='ResNet', depth=50, norm_eval=True, frozen_stages=1,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
        dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True)),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
