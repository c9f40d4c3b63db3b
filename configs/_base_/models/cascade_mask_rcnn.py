# Cascade Mask R-CNN with four convolutions in each box head; a leaf says the backbone and
# neck.in_channels, its widths.
_base_ = 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'

STAGES_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
model = dict(
    backbone=dict(_delete_=True, type='mmdat.DATPlusPlus'),
    roi_head=dict(bbox_head=[
        dict(
            type='ConvFCBBoxHead',
            num_shared_convs=4,
            num_shared_fcs=1,
            in_channels=256,
            conv_out_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=80,
            norm_cfg=dict(type='SyncBN'),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=stds),
            reg_class_agnostic=True,
            reg_decoded_bbox=True,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False),
            loss_bbox=dict(type='GIoULoss', loss_weight=10.0)) for stds in STAGES_STDS
    ]))
