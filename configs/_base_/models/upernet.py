# UperNet with an auxiliary head on the third stage; a leaf says the backbone and in_channels of the
# heads, its widths and its third one.
_base_ = 'mmseg::_base_/models/upernet_swin.py'
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_delete_=True, type='mmdat.DATPlusPlus'),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150))
