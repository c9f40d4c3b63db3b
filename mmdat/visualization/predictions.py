"""Pictures of what a model predicts, drawn on the image in its own size."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .fonts import font_for

Color = tuple[int, ...]

OPACITY = 0.45


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    colors: Sequence[Color],
    masks: Iterable[np.ndarray] = (),
) -> np.ndarray:
    """Draw boxes with texts, and masks.

    Args:
        image: (height, width, 3), RGB uint8.
        boxes: (n, 4), as (x1, y1, x2, y2) in pixels.
        texts: Written at each box.
        colors: RGB, of each box.
        masks: (height, width) bool, of each box, or none; taken one by one.

    Returns:
        (height, width, 3), RGB uint8.
    """
    picture = image.copy()
    width = _line_width(image)
    for mask, color in zip(masks, colors, strict=False):
        # Only where it is: most objects are small in a large image.
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if not rows.size:
            continue
        place = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        part, inside = picture[place], mask[place]
        part[inside] = (1 - OPACITY) * part[inside] + OPACITY * np.array(color)
        contours, _ = cv2.findContours(
            inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE
        )
        offset = columns[0].item(), rows[0].item()
        cv2.drawContours(picture, contours, -1, color, width, offset=offset)
    for box, color in zip(boxes.round().astype(int).tolist(), colors, strict=True):
        cv2.rectangle(picture, box[:2], box[2:], color, width)
    # The texts of the best, which come first, on top.
    anchors = [(x, y) for x, y in boxes[:, :2].tolist()]
    return _draw_texts(picture, anchors[::-1], texts[::-1], colors[::-1])


def draw_classes_of_pixels(
    image: np.ndarray, class_map: np.ndarray, classes: Sequence[str], palette: Sequence[Color]
) -> np.ndarray:
    """Color each pixel by its class, and write the classes' names where there is room.

    Args:
        image: (height, width, 3), RGB uint8.
        class_map: (height, width), the class of each pixel.
        classes: Names of the classes.
        palette: RGB, of each class.

    Returns:
        (height, width, 3), RGB uint8.
    """
    picture = cv2.addWeighted(
        image, 1 - OPACITY, np.array(palette, np.uint8)[class_map], OPACITY, 0
    )
    places = {index: _innermost(class_map == index) for index in np.unique(class_map).tolist()}
    named = [index for index, (_, room) in places.items() if room >= _text_size(image)]
    return _draw_texts(
        picture,
        [places[index][0] for index in named],
        [classes[index] for index in named],
        [palette[index] for index in named],
        centered=True,
    )


def draw_text(image: np.ndarray, text: str) -> np.ndarray:
    """Write lines into the upper left corner of an image, (height, width, 3) RGB uint8."""
    return _draw_texts(image, [(0, 0)], [text], [(0, 0, 0)])


def _line_width(image: np.ndarray) -> int:
    return max(1, round(max(image.shape[:2]) / 500))


def _text_size(image: np.ndarray) -> int:
    """Height of texts in pixels, which grows more slowly than the image."""
    return max(10, round(0.62 * min(image.shape[:2]) ** 0.5))


def _innermost(mask: np.ndarray) -> tuple[tuple[int, int], float]:
    """The pixel (x, y) of a mask that is farthest from its edge and the image's, and how far."""
    distances = cv2.distanceTransform(
        cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 3
    )
    _, farthest, _, (x, y) = cv2.minMaxLoc(distances)
    return (x - 1, y - 1), farthest


def _draw_texts(
    image: np.ndarray,
    anchors: Sequence[tuple[float, float]],
    texts: Sequence[str],
    colors: Sequence[Color],
    centered: bool = False,
) -> np.ndarray:
    """Write texts on boxes of a color, above, or centered on, their anchors (x, y)."""
    picture = Image.fromarray(image)
    canvas = ImageDraw.Draw(picture)
    size = _text_size(image)
    pad = size // 6
    for (x, y), text, color in zip(anchors, texts, colors, strict=True):
        font = font_for(text, size)
        left, top, right, bottom = canvas.multiline_textbbox((0, 0), text, font=font)
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        x, y = (x - width / 2, y - height / 2) if centered else (x, y - height)
        # Inside the picture, whatever the anchor.
        x = max(0, min(x, picture.width - width))
        y = max(0, min(y, picture.height - height))
        canvas.rectangle((x, y, x + width, y + height), fill=color)
        is_light = np.dot(color, (0.299, 0.587, 0.114)) > 140
        canvas.multiline_text(
            (x + pad - left, y + pad - top), text, font=font, fill='black' if is_light else 'white'
        )
    return np.asarray(picture)
