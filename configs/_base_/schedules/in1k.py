# The papers' recipe on ImageNet-1k: 300 epochs at 1024 images a step.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
