# Made drawings of shapes with a class for each pixel (tools/make_shapes.py --task segment), in
# ADE20K's layout, and how long to train on them. The folder comes from the environment variable
# SHAPES_SEGMENT_ROOT.
_base_ = ['./ade20k.py', './shapes_schedule.py']
data_root = '{{$SHAPES_SEGMENT_ROOT:data/shapes_segment}}'

train_pipeline = [
    dict(type='mmdat.LoadImageFromFile', skip_broken=True),
    {{_base_.LOAD_MAP}},
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='mmdat.LoadImageFromFile'),
    {{_base_.LOAD_MAP}},
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        type='mmdat.ShapesSegmentDataset', data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(type='mmdat.ShapesSegmentDataset', data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader

tta_pipeline = [
    dict(type='mmdat.LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [{{_base_.LOAD_MAP}}],
        [dict(type='PackSegInputs')],
    ]),
]

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
randomness = dict(seed=0)
