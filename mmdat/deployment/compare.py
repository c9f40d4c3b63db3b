"""Whether two programs find the same objects, in whatever order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Agreement:
    """What two lists of detections have in common.

    Attributes:
        expected: How many objects the reference finds.
        found: How many the other finds.
        matched: How many of both have one label, and boxes that differ by less than the tolerance.
        box_difference: The largest difference of a coordinate of matched boxes, in pixels.
        score_difference: The largest difference of matched scores.
        mask_difference: The largest difference of matched masks' probabilities, or the largest
            share of pixels in which masks of booleans differ.
    """

    expected: int
    found: int
    matched: int
    box_difference: float
    score_difference: float
    mask_difference: float

    @property
    def same(self) -> bool:
        """Whether each object of one is an object of the other."""
        return self.expected == self.found == self.matched


def compare_detections(
    reference: Sequence[np.ndarray], other: Sequence[np.ndarray], tolerance: float = 0.5
) -> Agreement:
    """Compare the outputs of two detectors for one batch.

    Args:
        reference: Boxes (batch, n, 4), scores and labels (batch, n) and, for models with masks,
            masks (batch, n, h, w); scores are -1 where there is no box.
        other: The same of the other detector.
        tolerance: Boxes with a coordinate that differs by so many pixels are not the same.

    Example:
        >>> boxes, scores = np.array([[[0.0, 0, 8, 8], [4, 4, 9, 9]]]), np.array([[0.75, 0.5]])
        >>> labels = np.array([[1, 0]])
        >>> one = boxes, scores, labels
        >>> other = boxes[:, ::-1], scores[:, ::-1] + 0.125, labels[:, ::-1]
        >>> print(compare_detections(one, other).matched, compare_detections(one, other).same)
        2 True
    """
    largest = [0.0] * len(reference)
    matched = 0
    for image in range(len(reference[1])):
        expected, found = (
            [values[image][outputs[1][image] >= 0] for values in outputs]
            for outputs in (reference, other)
        )
        distances = np.abs(expected[0][:, None] - found[0]).max(axis=-1)
        distances[expected[2][:, None] != found[2]] = np.inf
        for i, nearest in enumerate(distances):  # a view: boxes that are taken drop out
            if nearest.min(initial=np.inf) < tolerance:
                j = int(nearest.argmin())
                distances[:, j] = np.inf
                matched += 1
                for k, (x, y) in enumerate(zip(expected, found, strict=True)):
                    error = np.abs(x[i].astype(float) - y[j])
                    error = error.mean() if x.dtype == bool else error.max()
                    largest[k] = max(largest[k], float(error))
    boxes, scores, _, *masks = largest
    return Agreement(
        expected=int((reference[1] >= 0).sum()),
        found=int((other[1] >= 0).sum()),
        matched=matched,
        box_difference=boxes,
        score_difference=scores,
        mask_difference=max(masks, default=0.0),
    )
