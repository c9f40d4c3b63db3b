# RetinaNet with a feature pyramid; a leaf says the backbone and neck.in_channels, its widths.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(backbone=dict(_delete_=True, type='mmdat.DATPlusPlus'))
