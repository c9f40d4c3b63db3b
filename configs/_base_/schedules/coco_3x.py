# The papers' recipe on COCO, 36 epochs.
_base_ = './coco_1x.py'
EPOCHS = 36
train_cfg = dict(max_epochs=EPOCHS)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='MultiStepLR', end=EPOCHS, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
