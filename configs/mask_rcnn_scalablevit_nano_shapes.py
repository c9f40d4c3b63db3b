# The demo with ScalableViT in place of DAT++.
_base_ = './mask_rcnn_dat_pp_nano_shapes.py'
model = dict(backbone=dict(type='mmdat.ScalableViT'))
