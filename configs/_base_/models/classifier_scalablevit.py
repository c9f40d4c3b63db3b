# ScalableViT's head has a hidden layer.
_base_ = './classifier.py'
model = dict(
    backbone=dict(type='mmdat.ScalableViT'),
    head=dict(
        type='StackedLinearClsHead',
        mid_channels=[4096],
        norm_cfg=dict(type='LN', eps=1e-6),
        act_cfg=dict(type='GELU')))
