# Synthetic drawings of one shape each (tools/make_shapes.py --task classify), in ImageNet's layout.
# The folder comes from the environment variable SHAPES_CLASSIFY_ROOT.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'
data_root = '{{$SHAPES_CLASSIFY_ROOT:data/shapes_classify}}'

data_preprocessor = dict(num_classes=4)
train_pipeline = [
    dict(type='mmdat.LoadImageFromFile', skip_broken=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25],
         direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(
        type='mmdat.ShapesClassifyDataset', data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(type='mmdat.ShapesClassifyDataset', data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
