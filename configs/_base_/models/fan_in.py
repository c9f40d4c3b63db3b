# For the few channels of nano models: weights as small as those of the large ones hold up training.
FAN_IN = dict(
    type='Kaiming', layer=['Conv2d', 'Linear'], a=5**0.5, nonlinearity='leaky_relu',
    distribution='uniform', mode='fan_in')
