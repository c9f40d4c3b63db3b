# ADE20K, 150 classes.
_base_ = ['mmseg::_base_/datasets/ade20k.py', './ade20k_loading.py']
train_pipeline = [*_base_.LOAD_TO_TRAIN, *_base_.train_pipeline[2:-1], _base_.PACK_TO_TRAIN]
test_pipeline = _base_.TEST_PIPELINE
tta_pipeline = _base_.TTA_PIPELINE
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **_base_.ADE20K))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=test_pipeline, **_base_.ADE20K))
