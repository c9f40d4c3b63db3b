# COCO 2017 with masks. The folder comes from the environment variable COCO_ROOT.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'
data_root = '{{$COCO_ROOT:data/coco}}/'

SCALES = [(side, 1333) for side in range(480, 801, 32)]
train_pipeline = [
    dict(type='mmdat.LoadImageFromFile', skip_broken=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[
        [dict(type='RandomChoiceResize', scales=SCALES, keep_ratio=True)],
        [dict(type='RandomChoiceResize', scales=[(400, 1333), (500, 1333), (600, 1333)],
              keep_ratio=True),
         dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600),
              allow_negative_crop=True),
         dict(type='RandomChoiceResize', scales=SCALES, keep_ratio=True)],
    ]),
    dict(type='PackDetInputs'),
]
META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
TTA_META_KEYS = (*META_KEYS, 'flip', 'flip_direction')
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=META_KEYS),
]
train_dataloader = dict(
    dataset=dict(type='mmdat.CocoDataset', data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(type='mmdat.CocoDataset', data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mmdat.CocoMetric', ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

tta_model = dict(
    type='mmdat.InstanceTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=(1333, 800), keep_ratio=True)],
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
        [dict(type='PackDetInputs', meta_keys=TTA_META_KEYS)],
    ]),
]
