# Made drawings of one shape each (tools/make_shapes.py --task classify), in ImageNet's layout, and
# how long to train on them. The folder comes from the environment variable SHAPES_CLASSIFY_ROOT.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/default_runtime.py',
    './shapes_schedule.py',
]
custom_imports = dict(imports=['mmdat'], allow_failed_imports=False)
custom_hooks = [dict(type='mmdat.CheckFitHook'), dict(type='mmdat.CountBrokenImagesHook')]
data_root = '{{$SHAPES_CLASSIFY_ROOT:data/shapes_classify}}'

data_preprocessor = dict(num_classes=4)
train_pipeline = [
    dict(type='mmdat.LoadImageFromFile', skip_broken=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25],
         direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='mmdat.LoadImageFromFile'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(
        type='mmdat.ShapesClassifyDataset', data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(type='mmdat.ShapesClassifyDataset', data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator

EPOCHS = 8
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=EPOCHS, val_interval=EPOCHS)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(enable=False, base_batch_size=32)
param_scheduler = [
    {{_base_.WARM_UP}},
    dict(type='CosineAnnealingLR', T_max=EPOCHS, eta_min=1e-5, convert_to_iter_based=True),
]
default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=EPOCHS, max_keep_ckpts=1))
randomness = dict(seed=0)
