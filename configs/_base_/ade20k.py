# ADE20K, 150 classes. The folder comes from the environment variable ADE20K_ROOT.
_base_ = ['mmseg::_base_/datasets/ade20k.py', 'mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['mmdat'], allow_failed_imports=False)
data_root = '{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
# The size of a test image, times each, and its mirror image.
tta_pipeline = _base_.tta_pipeline
tta_pipeline[-1].transforms[0] = [
    dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
    for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
custom_hooks = [dict(type='mmdat.CheckFitHook')]
