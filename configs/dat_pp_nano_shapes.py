# The demo of classification: minutes on two cores.
_base_ = [
    './_base_/models/fan_in.py', './_base_/datasets/shapes_classify.py',
    './_base_/schedules/shapes_classify.py', './_base_/runtime/mmpretrain.py',
]
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmdat.DATPlusPlus', arch='nano', out_indices=(3,), init_cfg={{_base_.FAN_IN}}),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=4,
        in_channels=128,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='CrossEntropyLoss'),
        topk=(1,)))
default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=_base_.EPOCHS, max_keep_ckpts=1))
randomness = dict(seed=0)
