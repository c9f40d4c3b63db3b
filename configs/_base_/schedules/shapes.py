# The optimizer of the demos; each task's schedule says the learning rate and for how long.
WARM_UP = dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=5.0))
