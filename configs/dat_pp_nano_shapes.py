# The demo of classification: minutes on two cores.
_base_ = ['./_base_/shapes_classify.py', './_base_/fan_in.py']
EPOCHS = 8

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

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=EPOCHS, val_interval=EPOCHS)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(enable=False, base_batch_size=32)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', T_max=EPOCHS, eta_min=1e-5, convert_to_iter_based=True),
]
default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=EPOCHS, max_keep_ckpts=1))
randomness = dict(seed=0)
