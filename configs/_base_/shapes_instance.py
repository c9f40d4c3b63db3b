# Made drawings of shapes with masks (tools/make_shapes.py), shown to the network at three quarters
# of their size, and how long to train on them. The folder comes from the environment variable
# SHAPES_ROOT.
_base_ = ['./coco_instance.py', './default_runtime.py', './shapes_schedule.py']
data_root = '{{$SHAPES_ROOT:data/shapes}}/'

SCALE = (192, 192)
train_pipeline = [
    dict(type='mmdat.LoadImageFromFile', skip_broken=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=SCALE),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='mmdat.LoadImageFromFile'),
    dict(type='Resize', scale=SCALE),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys={{_base_.META_KEYS}}),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    batch_sampler=None,
    dataset=dict(
        type='mmdat.ShapesDataset', data_root=data_root, pipeline=train_pipeline,
        ann_file='annotations/instances_train.json', data_prefix=dict(img='train/')))
val_dataloader = dict(
    batch_size=2,
    num_workers=1,
    dataset=dict(
        type='mmdat.ShapesDataset', data_root=data_root, pipeline=test_pipeline,
        ann_file='annotations/instances_val.json', data_prefix=dict(img='val/')))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

tta_pipeline = [
    dict(type='mmdat.LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=SCALE)],
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
        [dict(type='PackDetInputs', meta_keys={{_base_.TTA_META_KEYS}})],
    ]),
]

EPOCHS = 7
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=EPOCHS, val_interval=EPOCHS)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(optimizer=dict(lr=3e-3))
auto_scale_lr = dict(enable=False, base_batch_size=2)
param_scheduler = [
    {{_base_.WARM_UP}},
    dict(type='CosineAnnealingLR', T_max=EPOCHS, eta_min=1e-5, convert_to_iter_based=True),
]
default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=EPOCHS, max_keep_ckpts=1))
randomness = dict(seed=0)
