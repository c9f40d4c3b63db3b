# Synthetic drawings of shapes with masks (tools/make_shapes.py), shown to the network at three
# quarters of their size. The folder comes from the environment variable SHAPES_ROOT.
_base_ = './coco_instance.py'
data_root = '{{$SHAPES_ROOT:data/shapes}}/'

SCALE = (192, 192)
train_pipeline = [
    dict(type='mmdat.LoadImageFromFile', skip_broken=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=SCALE),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=SCALE),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys={{_base_.META_KEYS}}),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    batch_sampler=None,
    dataset=dict(
        type='mmdat.ShapesDataset', data_root=data_root, pipeline=train_pipeline,
        ann_file='annotations/instances_train.json', data_prefix=dict(img='train/')))
val_dataloader = dict(
    batch_size=2,
    num_workers=1,
    dataset=dict(
        type='mmdat.ShapesDataset', data_root=data_root, pipeline=test_pipeline,
        ann_file='annotations/instances_val.json', data_prefix=dict(img='val/')))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=SCALE)],
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
        [dict(type='PackDetInputs', meta_keys={{_base_.TTA_META_KEYS}})],
    ]),
]
