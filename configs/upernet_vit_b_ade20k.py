_base_ = [
    './_base_/models/upernet.py', './_base_/datasets/ade20k_bs2.py',
    './_base_/schedules/ade20k_160k.py', './_base_/runtime/mmseg.py',
]
WIDTHS = [768, 768, 768, 768]
model = dict(
    backbone=dict(
        type='VisionTransformer', img_size=(512, 512), out_indices=(2, 5, 8, 11), qkv_bias=True,
        drop_path_rate=0.1, norm_cfg=dict(type='LN', eps=1e-6)),
    neck=dict(type='MultiLevelNeck', in_channels=WIDTHS, out_channels=768, scales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=WIDTHS),
    auxiliary_head=dict(in_channels=768))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(
        pos_embed=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0))))
