# The papers' recipe to fine-tune at 384 x 384: 30 epochs at 1024 images a step.
_base_ = './in1k.py'
EPOCHS = 30
optim_wrapper = dict(optimizer=dict(lr=2e-5, weight_decay=1e-8))
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True, end=EPOCHS)]
train_cfg = dict(max_epochs=EPOCHS)
