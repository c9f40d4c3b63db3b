# Mask R-CNN for the few channels of nano backbones. Heads are slim, since on a CPU they would cost
# most of the time.
_base_ = './mask_rcnn.py'
WIDTH = 48
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
