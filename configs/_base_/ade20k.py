# ADE20K, 150 classes. The folder comes from the environment variable ADE20K_ROOT.
_base_ = [
    'mmseg::_base_/datasets/ade20k.py', 'mmseg::_base_/default_runtime.py',
    './ade20k_pipelines.py',
]
custom_imports = dict(imports=['mmdat'], allow_failed_imports=False)
data_root = '{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}'
train_pipeline = [*_base_.LOAD_TO_TRAIN, *_base_.train_pipeline[2:]]
test_pipeline = _base_.TEST_PIPELINE
tta_pipeline = _base_.TTA_PIPELINE
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
