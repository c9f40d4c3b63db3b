# Mask2Former as in mmsegmentation.
_base_ = [
    'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
    './_base_/datasets/ade20k_loading.py', './_base_/runtime/checks.py',
]
custom_imports = dict(imports=['mmdet.models', 'mmdat'], allow_failed_imports=False)
model = dict(
    # Padded images would be predicted in one size for all, not in that of a slide.
    data_preprocessor=dict(test_cfg=None),
    backbone=dict(_delete_=True, type='mmdat.DATPlusPlus', arch='tiny', drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 256, 512]))
train_pipeline = [*_base_.LOAD_TO_TRAIN, *_base_.train_pipeline[2:-1], _base_.PACK_TO_TRAIN]
test_pipeline = _base_.TEST_PIPELINE
tta_pipeline = _base_.TTA_PIPELINE
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **_base_.ADE20K))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=test_pipeline, **_base_.ADE20K))
optim_wrapper = dict(constructor='mmdat.BackboneDecayConstructor')
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
