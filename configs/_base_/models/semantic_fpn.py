# Semantic FPN; a leaf says the backbone and neck.in_channels, its widths.
_base_ = 'mmseg::_base_/models/fpn_r50.py'
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(_delete_=True, type='mmdat.DATPlusPlus'),
    decode_head=dict(num_classes=150))
