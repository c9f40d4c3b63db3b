# The demo: minutes on two cores. Heads are slim, since on a CPU they would cost most of the time.
_base_ = [
    './_base_/mask_rcnn.py', './_base_/shapes_instance.py', './_base_/default_runtime.py'
]
WIDTH = 48
EPOCHS = 7
BATCH_NORM = dict(type='BN')
ROI_EXTRACTOR = dict(out_channels=WIDTH, finest_scale=28, roi_layer=dict(sampling_ratio=1))

model = dict(
    backbone=dict(arch='nano'),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=WIDTH, num_outs=4, norm_cfg=BATCH_NORM),
    rpn_head=dict(
        in_channels=WIDTH, feat_channels=WIDTH,
        anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=ROI_EXTRACTOR,
        bbox_head=dict(
            in_channels=WIDTH, fc_out_channels=256, num_classes=4, reg_class_agnostic=True),
        mask_roi_extractor=ROI_EXTRACTOR,
        mask_head=dict(
            num_convs=2, in_channels=WIDTH, conv_out_channels=WIDTH, num_classes=4,
            class_agnostic=True, norm_cfg=BATCH_NORM)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=400, max_per_img=200),
        rcnn=dict(sampler=dict(num=96))),
    test_cfg=dict(
        rpn=dict(nms_pre=400, max_per_img=200),
        rcnn=dict(max_per_img=50)))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=EPOCHS, val_interval=EPOCHS)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(enable=False, base_batch_size=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', T_max=EPOCHS, eta_min=1e-5, convert_to_iter_based=True),
]
default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=EPOCHS, max_keep_ckpts=1))
randomness = dict(seed=0)
