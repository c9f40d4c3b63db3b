# The papers' recipe to fine-tune at 384 x 384: 30 epochs at 1024 images a step.
_base_ = './in1k.py'
SIZE = 384
EPOCHS = 30
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
optim_wrapper = dict(optimizer=dict(lr=2e-5, weight_decay=1e-8))
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True, end=EPOCHS)]
train_cfg = dict(max_epochs=EPOCHS)
model = dict(backbone=dict(pretrain_img_size=SIZE))
