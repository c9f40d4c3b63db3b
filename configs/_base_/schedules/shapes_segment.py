# The demo's recipe: 4000 iterations on drawings with a class for each pixel.
_base_ = './shapes.py'
ITERATIONS = 4000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=ITERATIONS, val_interval=ITERATIONS)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(enable=False, base_batch_size=8)
param_scheduler = [
    {{_base_.WARM_UP}},
    dict(type='CosineAnnealingLR', T_max=ITERATIONS, eta_min=1e-5, by_epoch=False),
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=25, log_metric_by_epoch=False),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=ITERATIONS, max_keep_ckpts=1))
