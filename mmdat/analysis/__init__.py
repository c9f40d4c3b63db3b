"""Looking at a model, its data and its results: cost, speed, input images, average precision."""

from mmdat.stack import require

require('mmengine', 'mmcv', 'matplotlib')
