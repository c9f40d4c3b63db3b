# Mask2Former as in mmsegmentation; a leaf says the backbone and decode_head.in_channels, its
# widths.
_base_ = 'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'
custom_imports = dict(imports=['mmdet.models', 'mmdat'], allow_failed_imports=False)
data_root = '{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}'
model = dict(backbone=dict(_delete_=True, type='mmdat.DATPlusPlus'))
LOAD_MAP = dict(type='mmdat.LoadSegmentationMap')

train_pipeline = [
    dict(type='mmdat.LoadImageFromFile', skip_broken=True), LOAD_MAP, *_base_.train_pipeline[2:]]
test_pipeline = [
    dict(type='mmdat.LoadImageFromFile'), _base_.test_pipeline[1], LOAD_MAP,
    _base_.test_pipeline[-1]]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = _base_.tta_pipeline
tta_pipeline[0] = test_pipeline[0]
tta_pipeline[-1].transforms[2] = [LOAD_MAP]
tta_pipeline[-1].transforms[0] = [
    dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
    for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
optim_wrapper = dict(constructor='mmdat.BackboneDecayConstructor')
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
custom_hooks = [dict(type='mmdat.CheckFitHook'), dict(type='mmdat.CountBrokenImagesHook')]
