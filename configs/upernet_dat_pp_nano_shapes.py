# The demo of semantic segmentation: minutes on two cores. Heads are slim, since on a CPU they would
# cost most of the time.
_base_ = ['./_base_/upernet.py', './_base_/shapes_segment.py']
WIDTH = 48
ITERATIONS = 1200
BATCH_NORM = dict(type='BN')

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(arch='nano'),
    decode_head=dict(
        in_channels=[16, 32, 64, 128], channels=WIDTH, num_classes=5, norm_cfg=BATCH_NORM),
    auxiliary_head=dict(in_channels=64, channels=WIDTH, num_classes=5, norm_cfg=BATCH_NORM))

train_cfg = dict(type='IterBasedTrainLoop', max_iters=ITERATIONS, val_interval=ITERATIONS)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(enable=False, base_batch_size=8)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', T_max=ITERATIONS, eta_min=1e-5, by_epoch=False),
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=25, log_metric_by_epoch=False),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=ITERATIONS, max_keep_ckpts=1))
randomness = dict(seed=0)
