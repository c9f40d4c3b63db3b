# The papers' learning rate for RetinaNet is half that of other detectors (theirs: 2e-4 at 64).
_base_ = './coco_1x.py'
optim_wrapper = dict(optimizer=dict(lr=5e-5))
