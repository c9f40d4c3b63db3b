# UperNet for the few channels of nano backbones and for drawings of shapes. Heads are slim, since
# on a CPU they would cost most of the time.
_base_ = ['./upernet.py', './fan_in.py']
WIDTH = 48
BATCH_NORM = dict(type='BN')
# Most pixels are ground: unweighted, 1000 iterations and more go by before shapes count.
LOSS = dict(class_weight=[0.3, 1, 1, 1, 1])

model = dict(
    # mmsegmentation fails on pixels without class where classes have weights: padding is ground.
    data_preprocessor=dict(size=None, size_divisor=32, seg_pad_val=0),
    backbone=dict(arch='nano', init_cfg={{_base_.FAN_IN}}),
    decode_head=dict(
        in_channels=[16, 32, 64, 128], channels=WIDTH, num_classes=5, norm_cfg=BATCH_NORM,
        loss_decode=LOSS),
    auxiliary_head=dict(
        in_channels=64, channels=WIDTH, num_classes=5, norm_cfg=BATCH_NORM,
        loss_decode=LOSS))
