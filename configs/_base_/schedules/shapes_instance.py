# The demo's recipe: seven epochs of drawings with masks.
_base_ = './shapes.py'
EPOCHS = 7
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=EPOCHS, val_interval=EPOCHS)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(optimizer=dict(lr=3e-3))
auto_scale_lr = dict(enable=False, base_batch_size=2)
param_scheduler = [
    {{_base_.WARM_UP}},
    dict(type='CosineAnnealingLR', T_max=EPOCHS, eta_min=1e-5, convert_to_iter_based=True),
]
