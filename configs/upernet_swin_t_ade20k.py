_base_ = [
    './_base_/models/upernet.py', './_base_/datasets/ade20k_bs2.py',
    './_base_/schedules/ade20k_160k.py', './_base_/runtime/mmseg.py',
]
model = dict(
    backbone=dict(
        type='SwinTransformer', drop_path_rate=0.3,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/'
                       'swin_tiny_patch4_window7_224_20220317-1cdeb081.pth')),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
