# DINO with four scales as in mmdet.
_base_ = [
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    './_base_/datasets/coco_loading.py', './_base_/runtime/checks.py',
]
custom_imports = dict(imports=['mmdat'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True, type='mmdat.DATPlusPlus', arch='tiny', out_indices=(1, 2, 3),
        drop_path_rate=0.2),
    neck=dict(in_channels=[128, 256, 512]))
train_pipeline = _base_.train_pipeline
train_pipeline[0].update(type='mmdat.LoadImageFromFile', skip_broken=True)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **_base_.COCO))
val_dataloader = test_dataloader = dict(dataset=_base_.COCO)
val_evaluator = test_evaluator = _base_.COCO_VAL
optim_wrapper = dict(constructor='mmdat.BackboneDecayConstructor')
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
