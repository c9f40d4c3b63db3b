# The papers' recipe on ImageNet-1k: 300 epochs at 1024 images a step. The folder of the data comes
# from the environment variable IMAGENET_ROOT.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmdat'], allow_failed_imports=False)
data_root = '{{$IMAGENET_ROOT:data/imagenet}}'
train_pipeline = _base_.train_pipeline
train_pipeline[0].update(type='mmdat.LoadImageFromFile', skip_broken=True)
test_pipeline = _base_.test_pipeline
test_pipeline[0].update(type='mmdat.LoadImageFromFile')
train_dataloader = dict(
    batch_size=128, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(batch_size=128, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
custom_hooks = [dict(type='mmdat.CheckFitHook'), dict(type='mmdat.CountBrokenImagesHook')]

# A leaf says the backbone and head.in_channels, its last width.
model = dict(
    type='ImageClassifier',
    backbone=dict(out_indices=(3,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
