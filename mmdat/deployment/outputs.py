"""Named tuples of tensors that exported models return: one for each task."""

from typing import NamedTuple

from torch import Tensor


class Scores(NamedTuple):
    """What an exported classifier returns.

    Attributes:
        scores: Tensor[batch, classes], probabilities.
    """

    scores: Tensor


class Segments(NamedTuple):
    """What an exported segmentor returns, in the size of the images.

    Attributes:
        logits: Tensor[batch, classes, height, width].
        classes: Tensor[batch, height, width], int64, the class of each pixel.
    """

    logits: Tensor
    classes: Tensor


class Boxes(NamedTuple):
    """Boxes of a batch, best first; those that are missing are zeros.

    Attributes:
        boxes: (batch, n, 4), x1, y1, x2, y2 in pixels of the input.
        scores: (batch, n), from 0 to 1, or -1 where there is no box.
        labels: (batch, n), int64, or -1 where there is no box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Detections(NamedTuple):
    """Boxes with their masks, see :class:`Boxes`.

    Attributes:
        masks: (batch, n, m, m), the probability that a pixel of the box belongs to the object, on a
            grid over the box; :func:`mmdat.deployment.masks.paste_masks` puts it into the image.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor
