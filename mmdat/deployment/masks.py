"""Masks of boxes and of images, in NumPy alone, for programs that run an exported detector."""

import numpy as np


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float = 0.5
) -> np.ndarray:
    """Put the masks of boxes into an image, as mmdet does.

    Args:
        masks: (n, m, m), probabilities on a grid over each box.
        boxes: (n, 4), x1, y1, x2, y2 in pixels.
        size: Height and width of the image.
        threshold: The least probability of a pixel that belongs to the object.

    Returns:
        Booleans (n, height, width).

    Example:
        >>> mask = paste_masks(np.ones((1, 28, 28)), np.array([[1.0, 0.0, 3.0, 2.0]]), (3, 4))
        >>> print(mask[0].astype(int))
        [[0 1 1 0]
         [0 1 1 0]
         [0 0 0 0]]
    """
    pasted = np.zeros((len(masks), *size), bool)
    for mask, (x1, y1, x2, y2), target in zip(masks, boxes, pasted, strict=True):
        rows = _interpolation(y1, y2, size[0], mask.shape[0])
        columns = _interpolation(x1, x2, size[1], mask.shape[1])
        np.greater_equal(rows @ mask @ columns.T, threshold, out=target)
    return pasted


def _interpolation(start: float, end: float, length: int, cells: int) -> np.ndarray:
    """Weights (length, cells) of a box's cells for the pixels of an axis, zero outside the box."""
    pixels = np.arange(length) + 0.5
    position = (pixels - start) / max(end - start, 1e-6) * cells - 0.5
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells)))
