# mask_rcnn_dat_pp_t_coco on data/shapes: COCO JSON, 4 classes.
_base_ = '../configs/mask_rcnn_dat_pp_t_coco.py'
classes = ('square', 'triangle', 'ring', 'cross')
data = dict(
    type='mmdat.CocoDataset', data_root='data/shapes/', metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        ann_file='annotations/instances_train.json', data_prefix=dict(img='train/'), **data))
val_dataloader = test_dataloader = dict(
    dataset=dict(ann_file='annotations/instances_val.json', data_prefix=dict(img='val/'), **data))
val_evaluator = test_evaluator = dict(
    ann_file='data/shapes/annotations/instances_val.json')
model = dict(roi_head=dict(bbox_head=dict(num_classes=4), mask_head=dict(num_classes=4)))
# The rate goes by the root of the images a step: 0.0001 are for 16.
optim_wrapper = dict(optimizer=dict(lr=3.5e-05))
auto_scale_lr = dict(base_batch_size=2)
# 100 epochs; 20 images at 2 a step are 10 steps an epoch.
train_cfg = dict(max_epochs=100, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', begin=0, end=100, by_epoch=True, milestones=[67, 92], gamma=0.1)]
default_hooks = dict(checkpoint=dict(interval=10), logger=dict(interval=5))
load_from = 'mask_rcnn_dat_pp_t_coco.pth'
