# ImageNet-1k at 384 x 384, tested without a crop.
_base_ = './in1k.py'
SIZE = 384
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=SIZE)
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=(SIZE, SIZE), backend='pillow', interpolation='bicubic'),
    _base_.test_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
