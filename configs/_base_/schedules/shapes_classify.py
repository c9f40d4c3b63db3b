# The demo's recipe: eight epochs of drawings of one shape each.
_base_ = './shapes.py'
EPOCHS = 8
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=EPOCHS, val_interval=EPOCHS)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(enable=False, base_batch_size=32)
param_scheduler = [
    {{_base_.WARM_UP}},
    dict(type='CosineAnnealingLR', T_max=EPOCHS, eta_min=1e-5, convert_to_iter_based=True),
]
