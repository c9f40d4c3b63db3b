_base_ = [
    './_base_/models/classifier.py', './_base_/datasets/in1k_384.py',
    './_base_/schedules/in1k_384.py', './_base_/runtime/mmpretrain.py',
]
model = dict(
    backbone=dict(
        type='mmdat.DATPlusPlus', arch='base', drop_path_rate=0.6, pretrain_img_size=384),
    head=dict(in_channels=1024))
