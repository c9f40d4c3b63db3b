# The demo of semantic segmentation: minutes on two cores.
_base_ = ['./_base_/upernet_nano.py', './_base_/shapes_segment.py']
