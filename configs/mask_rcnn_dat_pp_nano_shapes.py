# The demo: minutes on two cores.
_base_ = [
    './_base_/models/mask_rcnn_nano.py', './_base_/datasets/shapes_instance.py',
    './_base_/schedules/shapes_instance.py', './_base_/runtime/mmdet.py',
]
default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=_base_.EPOCHS, max_keep_ckpts=1))
randomness = dict(seed=0)
