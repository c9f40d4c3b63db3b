_base_ = './_base_/mask2former_coco.py'
model = dict(
    backbone=dict(arch='tiny', drop_path_rate=0.2),
    panoptic_head=dict(in_channels=[64, 128, 256, 512]))
