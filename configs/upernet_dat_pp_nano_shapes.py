# The demo of semantic segmentation: minutes on two cores.
_base_ = [
    './_base_/models/upernet_nano.py', './_base_/datasets/shapes_segment.py',
    './_base_/schedules/shapes_segment.py', './_base_/runtime/mmseg.py',
]
randomness = dict(seed=0)
