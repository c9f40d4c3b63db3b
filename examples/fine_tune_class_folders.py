# dat_pp_t_in1k on data/shapes_classify: a folder for each class, 4 classes.
_base_ = '../configs/dat_pp_t_in1k.py'
classes = ('cross', 'ring', 'square', 'triangle')
data = dict(
    type='mmdat.ClassificationDataset', data_root='data/shapes_classify',
    metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        _delete_=True, pipeline=_base_.train_dataloader.dataset.pipeline, data_prefix='train',
        **data))
val_dataloader = test_dataloader = dict(
    dataset=dict(
        _delete_=True, pipeline=_base_.val_dataloader.dataset.pipeline, data_prefix='val', **data))
val_evaluator = test_evaluator = dict(topk=(1,))
model = dict(head=dict(num_classes=4))
data_preprocessor = dict(num_classes=4)
# The rate goes by the root of the images a step: 0.001 are for 1024.
optim_wrapper = dict(optimizer=dict(lr=4.4e-05))
auto_scale_lr = dict(base_batch_size=2)
# 100 epochs; 20 images at 2 a step are 10 steps an epoch.
train_cfg = dict(max_epochs=100, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=True, end=7, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=4.4e-07, by_epoch=True, begin=7)]
default_hooks = dict(checkpoint=dict(interval=10), logger=dict(interval=5))
load_from = 'dat_pp_t_in1k.pth'
