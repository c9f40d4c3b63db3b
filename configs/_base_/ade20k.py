# ADE20K, 150 classes. The folder comes from the environment variable ADE20K_ROOT.
_base_ = ['mmseg::_base_/datasets/ade20k.py', 'mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['mmdat'], allow_failed_imports=False)
data_root = '{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}'
LOAD_MAP = dict(type='mmdat.LoadSegmentationMap')

train_pipeline = [
    dict(type='mmdat.LoadImageFromFile', skip_broken=True), LOAD_MAP, *_base_.train_pipeline[2:]]
test_pipeline = [
    dict(type='mmdat.LoadImageFromFile'), _base_.test_pipeline[1], LOAD_MAP,
    _base_.test_pipeline[-1]]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
# The size of a test image, times each, and its mirror image.
tta_pipeline = _base_.tta_pipeline
tta_pipeline[0] = test_pipeline[0]
tta_pipeline[-1].transforms[2] = [LOAD_MAP]
tta_pipeline[-1].transforms[0] = [
    dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
    for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
custom_hooks = [dict(type='mmdat.CheckFitHook'), dict(type='mmdat.CountBrokenImagesHook')]
