# Mask R-CNN on data of your own in COCO format, from weights trained on COCO.
_base_ = '../configs/mask_rcnn_dat_pp_t_coco.py'
data = dict(
    data_root='data/shapes/', metainfo=dict(classes=('square', 'triangle', 'ring', 'cross')))
train_dataloader = dict(dataset=dict(
    **data, ann_file='annotations/instances_train.json', data_prefix=dict(img='train/')))
val_dataloader = test_dataloader = dict(dataset=dict(
    **data, ann_file='annotations/instances_val.json', data_prefix=dict(img='val/')))
val_evaluator = test_evaluator = dict(ann_file='data/shapes/annotations/instances_val.json')
model = dict(roi_head=dict(bbox_head=dict(num_classes=4), mask_head=dict(num_classes=4)))
load_from = 'mask_rcnn_dat_pp_t_coco.pth'
