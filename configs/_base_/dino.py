# DINO with four scales as in mmdet; a leaf says the backbone and neck.in_channels, its last three
# widths.
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
custom_imports = dict(imports=['mmdat'], allow_failed_imports=False)
data_root = '{{$COCO_ROOT:data/coco}}/'
model = dict(backbone=dict(_delete_=True, type='mmdat.DATPlusPlus', out_indices=(1, 2, 3)))
train_pipeline = _base_.train_pipeline
train_pipeline[0].update(type='mmdat.LoadImageFromFile', skip_broken=True)
test_pipeline = _base_.test_pipeline
test_pipeline[0].update(type='mmdat.LoadImageFromFile')
train_dataloader = dict(
    dataset=dict(type='mmdat.CocoDataset', data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(type='mmdat.CocoDataset', data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
optim_wrapper = dict(constructor='mmdat.BackboneDecayConstructor')
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
custom_hooks = [dict(type='mmdat.CheckFitHook'), dict(type='mmdat.CountBrokenImagesHook')]
