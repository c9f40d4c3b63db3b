# The demo: minutes on two cores.
_base_ = ['./_base_/mask_rcnn_nano.py', './_base_/shapes_instance.py']
