# UperNet on folders of images and masks of your own, from weights trained on ADE20K. The masks hold
# 1 for the first class and so on, and 0 where nothing is to be learned.
_base_ = '../configs/upernet_dat_pp_t_ade20k.py'
data = dict(
    type='BaseSegDataset', data_root='data/shapes_segment', reduce_zero_label=True,
    metainfo=dict(classes=('ground', 'square', 'triangle', 'ring', 'cross')))
train_dataloader = dict(dataset=data)  # images/training/*.jpg, annotations/training/*.png
val_dataloader = test_dataloader = dict(dataset=data)  # the same in the folders validation
model = dict(decode_head=dict(num_classes=5), auxiliary_head=dict(num_classes=5))
load_from = 'upernet_dat_pp_t_ade20k.pth'
