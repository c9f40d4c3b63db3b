"""Predictions beside the ground truth, and images with their titles, in a grid of pictures."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw

from mmdat.files import write_whole

from .fonts import font_for
from .predictions import distinct_colors, draw_classes_of_pixels, draw_instances

PICTURES_PER_ROW = 4
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


def compare_objects(
    title: str,
    image: np.ndarray,
    truth: InstanceData,
    prediction: InstanceData,
    classes: Sequence[str],
    palette: Palette | None = None,
    score_thr: float = SCORE_THRESHOLD,
) -> np.ndarray:
    """Draw a pair of pictures, the objects of the ground truth left and the predicted ones right.

    Args:
        title: Written above the ground truth.
        image: (height, width, 3), RGB uint8.
        truth: InstanceData with ``bboxes`` (n, 4) as (x1, y1, x2, y2) in pixels, ``labels`` (n,)
            and, if there are any, ``masks`` (n, height, width).
        prediction: The same with ``scores`` (n,).
        palette: An RGB color for each class, some colors if None.

    Returns:
        (height, width, 3), RGB uint8.
    """
    pictures = (
        draw_objects(image, instances, classes, palette)
        for instances in (truth, prediction[prediction.scores >= score_thr])
    )
    return _pair(title, f'prediction, score >= {score_thr:g}', *pictures)


def compare_segments(
    title: str,
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    classes: Sequence[str],
    palette: Palette | None = None,
) -> np.ndarray:
    """Draw a pair of segmented pictures, as :func:`compare_objects`.

    Args:
        truth: (height, width), the class of each pixel.
        prediction: The same.
    """
    pictures = (draw_segments(image, part, classes, palette) for part in (truth, prediction))
    return _pair(title, 'prediction', *pictures)


def _pair(title: str, other: str, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    return np.hstack([draw_titled(f'{title}: truth', truth), draw_titled(other, prediction)])


def draw_titled(title: str, image: np.ndarray, right: bool = True) -> np.ndarray:
    """Place an image, (height, width, 3), RGB uint8, below its title; one that is wrong is red."""
    cell = np.full((SIDE + TITLE_HEIGHT + MARGIN, SIDE + MARGIN, 3), 255, dtype=np.uint8)
    picture = resize(image)
    height, width = picture.shape[:2]
    cell[TITLE_HEIGHT : TITLE_HEIGHT + height, :width] = picture
    title = ' '.join(title.split())
    font = font_for(title, TITLE_SIZE)
    if (length := font.getlength(title)) > SIDE:
        font = font_for(title, int(TITLE_SIZE * SIDE / length))
    titled = Image.fromarray(cell)
    color = GRAY if right else RED
    ImageDraw.Draw(titled).text((2, TITLE_HEIGHT - 12), title, color, font, anchor='ls')
    return np.array(titled)


def arrange(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrange titled pictures, or pairs of them, four in a row; the last is filled up with white.

    Args:
        parts: At least one, all of one size.
    """
    columns = min(PICTURES_PER_ROW * (SIDE + MARGIN) // parts[0].shape[1], len(parts))
    parts = [*parts, *[np.full_like(parts[0], 255)] * (-len(parts) % columns)]
    rows = [np.hstack(parts[first : first + columns]) for first in range(0, len(parts), columns)]
    return np.vstack(rows)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture, (height, width, 3), RGB uint8, as PNG, whole or not at all."""
    write_whole(path, cv2.imencode('.png', picture[..., ::-1])[1].tobytes())


def resize(image: np.ndarray) -> np.ndarray:
    """Resize an image to the size of the pictures."""
    scale = SIDE / max(image.shape[:2])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return cv2.resize(image, (width, height), interpolation=interpolation)


def draw_segments(
    image: np.ndarray, segments: np.ndarray, classes: Sequence[str], palette: Palette | None = None
) -> np.ndarray:
    """Color the pixels of an image by their classes, (height, width)."""
    image = resize(image)
    size = image.shape[1::-1]
    resized = cv2.resize(segments.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
    return draw_classes_of_pixels(image, resized, classes, palette or distinct_colors(len(classes)))


def draw_objects(
    image: np.ndarray,
    instances: InstanceData,
    classes: Sequence[str],
    palette: Palette | None = None,
) -> np.ndarray:
    """Draw masks, boxes, names and scores on an image, resized so that they can be read."""
    palette = palette or distinct_colors(len(classes))
    scale = SIDE / max(image.shape[:2])
    image = resize(image)
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
