"""What models of the three toolboxes predict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# COCO's run-length encoding, as of pycocotools.mask.
Mask = dict[str, Any]


@dataclass(frozen=True)
class Instances:
    """Objects in an image, the best first.

    Attributes:
        boxes: (n, 4) float32, as (x1, y1, x2, y2) in pixels.
        scores: (n,) float32, in [0, 1].
        labels: (n,) int64, from 0.
        masks: Of each object, run-length encoded in the image's size; None if the model
            predicts boxes alone.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[Mask] | None = None


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for an image: one of the last three attributes, the others are None.

    Attributes:
        name: Path of the image or video below the folder that all inputs share.
        path: Its absolute path, URL, or the camera's number.
        frame: Position in the video, from 0; None for an image.
        rate: Frames a second of the video; None for an image.
        image: (height, width, 3), RGB uint8, upright.
        classes: Names of the classes.
        instances: The objects that a detector found.
        class_map: (height, width), uint8, or uint16 with more than 256 classes: the class of each
            pixel, from 0, from a segmentor.
        class_scores: (num_classes,) float32, from a classifier.
    """

    name: str
    path: str
    frame: int | None
    rate: float | None
    image: np.ndarray
    classes: Sequence[str]
    instances: Instances | None = None
    class_map: np.ndarray | None = None
    class_scores: np.ndarray | None = None
