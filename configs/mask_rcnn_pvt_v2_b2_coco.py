_base_ = [
    './_base_/models/mask_rcnn.py', './_base_/datasets/coco_instance.py',
    './_base_/schedules/coco_1x.py', './_base_/runtime/mmdet.py',
]
model = dict(
    backbone=dict(
        type='PyramidVisionTransformerV2', embed_dims=64, num_layers=[3, 4, 6, 3],
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/whai362/PVT/releases/download/'
                       'v2/pvt_v2_b2.pth')),
    neck=dict(in_channels=[64, 128, 320, 512]))
