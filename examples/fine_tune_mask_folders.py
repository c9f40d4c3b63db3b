# upernet_dat_pp_t_ade20k on data/shapes_segment: ADE20K's layout, 5 classes.
_base_ = '../configs/upernet_dat_pp_t_ade20k.py'
classes = ('ground', 'square', 'triangle', 'ring', 'cross')
# 0 in the masks is no class, and 1 is 'ground'. If 0 is a class too, write this anew with --zero
# background.
data = dict(
    type='mmdat.SegmentationDataset', data_root='data/shapes_segment',
    metainfo=dict(classes=classes), reduce_zero_label=True)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'), **data))
val_dataloader = test_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        **data))
model = dict(decode_head=dict(num_classes=5), auxiliary_head=dict(num_classes=5))
# The rate goes by the root of the images a step: 6e-05 are for 16.
optim_wrapper = dict(optimizer=dict(lr=2.1e-05))
auto_scale_lr = dict(base_batch_size=2)
# 1000 steps; 20 images at 2 a step are 10 steps an epoch.
train_cfg = dict(max_iters=1000, val_interval=100)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-06, by_epoch=False, end=100),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=100, end=1000)]
default_hooks = dict(checkpoint=dict(interval=100), logger=dict(interval=5))
load_from = 'upernet_dat_pp_t_ade20k.pth'
