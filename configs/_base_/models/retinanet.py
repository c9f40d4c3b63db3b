# RetinaNet with a feature pyramid; a leaf says the backbone and neck.in_channels, its widths.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
# The pyramid begins at the second stage. Were the first returned, its norm would have no gradient,
# and training in several processes would stop at the second step.
model = dict(
    backbone=dict(_delete_=True, type='mmdat.DATPlusPlus', out_indices=(1, 2, 3)),
    neck=dict(start_level=0))
