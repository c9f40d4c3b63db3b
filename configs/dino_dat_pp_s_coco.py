_base_ = './dino_dat_pp_t_coco.py'
model = dict(
    backbone=dict(arch='small', drop_path_rate=0.4),
    neck=dict(in_channels=[192, 384, 768]))
