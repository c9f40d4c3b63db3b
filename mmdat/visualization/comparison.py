"""Predictions beside the ground truth, in a grid of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw

from .fonts import font_for
from .predictions import draw_classes_of_pixels, draw_instances, random_colors

PAIRS_PER_ROW = 2
# Predictions below it are not drawn, unless another is given.
SCORE_THRESHOLD = 0.5
# In pixels: the longer side of a picture, the space right of and below it, and that for its title.
SIDE = 480
MARGIN = 12
TITLE_HEIGHT = 36
TITLE_SIZE = 19
# Colors of titles.
GRAY = (30, 30, 30)
RED = (200, 0, 0)

Palette = Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class Comparison:
    """The ground truth and the prediction for an image.

    Attributes:
        title: Written above the ground truth.
        image: (height, width, 3), RGB uint8.
        ground_truth: InstanceData with ``bboxes`` (n, 4) as (x1, y1, x2, y2) in pixels, ``labels``
            (n,) and, if there are any, ``masks`` (n, height, width).
        prediction: The same with ``scores`` (n,).
    """

    title: str
    image: np.ndarray
    ground_truth: InstanceData
    prediction: InstanceData


def draw_comparisons(
    comparisons: Sequence[Comparison],
    classes: Sequence[str],
    palette: Palette | None = None,
    score_thr: float = SCORE_THRESHOLD,
) -> np.ndarray:
    """Draw pairs of pictures, ground truth left and prediction right, two pairs in a row.

    Args:
        comparisons: The pairs, at least one.
        palette: An RGB color for each class, some colors if None.

    Returns:
        (height, width, 3), RGB uint8.
    """
    palette = palette or random_colors(len(classes))
    pairs = []
    for pair in comparisons:
        prediction = pair.prediction[pair.prediction.scores >= score_thr]
        cells = [
            _draw_cell(title, _draw_picture(pair.image, instances, classes, palette))
            for title, instances in (
                (f'{pair.title}: truth', pair.ground_truth),
                (f'prediction, score >= {score_thr:g}', prediction),
            )
        ]
        pairs.append(np.hstack(cells))
    return _arrange(pairs, PAIRS_PER_ROW)


def draw_segments(
    comparisons: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
    classes: Sequence[str],
    palette: Palette | None = None,
) -> np.ndarray:
    """Draw pairs of segmented pictures, ground truth left and prediction right.

    Args:
        comparisons: Of each pair, at least one, a title, the image (height, width, 3), RGB uint8,
            and the true and the predicted class of each pixel (height, width).
        palette: An RGB color for each class, some colors if None.

    Returns:
        (height, width, 3), RGB uint8.
    """
    palette = palette or random_colors(len(classes))
    pairs = []
    for title, image, truth, prediction in comparisons:
        image = _enlarge(image)
        cells = []
        for name, segments in ((f'{title}: truth', truth), ('prediction', prediction)):
            size = image.shape[1::-1]
            resized = cv2.resize(segments.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
            picture = draw_classes_of_pixels(image, resized, classes, palette)
            cells.append(_draw_cell(name, picture))
        pairs.append(np.hstack(cells))
    return _arrange(pairs, PAIRS_PER_ROW)


def draw_titled(pictures: Sequence[tuple[str, np.ndarray, bool]]) -> np.ndarray:
    """Draw pictures below their titles, four in a row.

    Args:
        pictures: Of each, at least one, its title, the image (height, width, 3), RGB uint8, and
            whether the title is right; a wrong one is red.

    Returns:
        (height, width, 3), RGB uint8.
    """
    cells = [
        _draw_cell(title, _enlarge(image), GRAY if right else RED)
        for title, image, right in pictures
    ]
    return _arrange(cells, 2 * PAIRS_PER_ROW)


def _arrange(cells: list[np.ndarray], columns: int) -> np.ndarray:
    """Arrange pictures of one size in rows; the last is filled up with white."""
    columns = min(columns, len(cells))
    cells = cells + [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.hstack(cells[first : first + columns]) for first in range(0, len(cells), columns)]
    return np.vstack(rows)


def split_grid(grid: np.ndarray, cells: int) -> list[np.ndarray]:
    """Split what one of the functions above drew into its parts.

    Args:
        cells: Pictures of a part: 2 of a pair, 1 of those with a title.
    """
    height, width = SIDE + TITLE_HEIGHT + MARGIN, cells * (SIDE + MARGIN)
    parts = [
        grid[y : y + height, x : x + width]
        for y in range(0, len(grid), height)
        for x in range(0, grid.shape[1], width)
    ]
    return [part for part in parts if (part != 255).any()]  # the last row may be filled up


def _enlarge(image: np.ndarray) -> np.ndarray:
    """Resize an image to the size of the pictures."""
    scale = SIDE / max(image.shape[:2])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def _draw_cell(title: str, picture: np.ndarray, color: tuple[int, int, int] = GRAY) -> np.ndarray:
    """Place a picture below its title on white."""
    cell = np.full((SIDE + TITLE_HEIGHT + MARGIN, SIDE + MARGIN, 3), 255, dtype=np.uint8)
    height, width = picture.shape[:2]
    cell[TITLE_HEIGHT : TITLE_HEIGHT + height, :width] = picture
    title = ' '.join(title.split())
    font = font_for(title, TITLE_SIZE)
    if (length := font.getlength(title)) > SIDE:
        font = font_for(title, int(TITLE_SIZE * SIDE / length))
    titled = Image.fromarray(cell)
    ImageDraw.Draw(titled).text((2, TITLE_HEIGHT - 12), title, color, font, anchor='ls')
    return np.array(titled)


def _draw_picture(
    image: np.ndarray, instances: InstanceData, classes: Sequence[str], palette: Palette
) -> np.ndarray:
    """Draw masks, boxes, names and scores on an image, enlarged so that they can be read."""
    scale = SIDE / max(image.shape[:2])
    image = _enlarge(image)
    size = image.shape[1::-1]
    labels = instances.labels.tolist()
    texts = [classes[label] for label in labels]
    if 'scores' in instances:
        texts = [f'{text} {score:.2f}' for text, score in zip(texts, instances.scores, strict=True)]
    return draw_instances(
        image,
        instances.bboxes.numpy() * scale,
        texts,
        [tuple(map(int, palette[label])) for label in labels],
        (
            cv2.resize(mask.astype(np.float32), size) >= 0.5
            for mask in (instances.masks if 'masks' in instances else ())
        ),
    )
