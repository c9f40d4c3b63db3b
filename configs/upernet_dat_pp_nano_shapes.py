# The demo of semantic segmentation: minutes on two cores. Heads are slim, since on a CPU they would
# cost most of the time.
_base_ = ['./_base_/upernet.py', './_base_/shapes_segment.py', './_base_/fan_in.py']
WIDTH = 48
ITERATIONS = 4000
BATCH_NORM = dict(type='BN')
# Most pixels are ground: unweighted, 1000 iterations and more go by before shapes count.
LOSS = dict(class_weight=[0.3, 1, 1, 1, 1])

model = dict(
    # mmsegmentation fails on pixels without class where classes have weights: padding is ground.
    data_preprocessor=dict(size=(128, 128), seg_pad_val=0),
    backbone=dict(arch='nano', init_cfg={{_base_.FAN_IN}}),
    decode_head=dict(
        in_channels=[16, 32, 64, 128], channels=WIDTH, num_classes=5, norm_cfg=BATCH_NORM,
        loss_decode=LOSS),
    auxiliary_head=dict(
        in_channels=64, channels=WIDTH, num_classes=5, norm_cfg=BATCH_NORM,
        loss_decode=LOSS))

train_cfg = dict(type='IterBasedTrainLoop', max_iters=ITERATIONS, val_interval=ITERATIONS)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05, fused=True),
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
