# COCO 2017 with boxes alone.
_base_ = './coco_instance.py'

LOAD_BOXES = dict(type='LoadAnnotations', with_bbox=True)
train_pipeline = [_base_.train_pipeline[0], LOAD_BOXES, *_base_.train_pipeline[2:]]
test_pipeline = [*_base_.test_pipeline[:2], LOAD_BOXES, *_base_.test_pipeline[3:]]
tta_pipeline = _base_.tta_pipeline
tta_pipeline[-1].transforms[2] = [LOAD_BOXES]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
