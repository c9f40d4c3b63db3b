# Synthetic drawings of shapes with a class for each pixel (tools/make_shapes.py --task segment), in
# ADE20K's layout. The folder comes from the environment variable SHAPES_SEGMENT_ROOT.
_base_ = './ade20k.py'
data_root = '{{$SHAPES_SEGMENT_ROOT:data/shapes_segment}}'

train_pipeline = [
    *_base_.LOAD_TO_TRAIN,
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    _base_.PACK_TO_TRAIN,
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        type='mmdat.ShapesSegmentDataset', data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(type='mmdat.ShapesSegmentDataset', data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader

tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='LoadAnnotations')],
        [dict(type='PackSegInputs')],
    ]),
]
