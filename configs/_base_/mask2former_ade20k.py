# Mask2Former as in mmsegmentation; a leaf says the backbone and decode_head.in_channels, its
# widths.
_base_ = [
    'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py', './ade20k_pipelines.py',
]
custom_imports = dict(imports=['mmdet.models', 'mmdat'], allow_failed_imports=False)
data_root = '{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}'
model = dict(backbone=dict(_delete_=True, type='mmdat.DATPlusPlus'))
train_pipeline = [*_base_.LOAD_TO_TRAIN, *_base_.train_pipeline[2:]]
test_pipeline = _base_.TEST_PIPELINE
tta_pipeline = _base_.TTA_PIPELINE
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(constructor='mmdat.BackboneDecayConstructor')
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
