"""Pictures of what a model predicts, drawn on the image in its own size but for small ones."""

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .fonts import font_for

Color = Sequence[int]

OPACITY = 0.45
GOLDEN_RATIO = (5**0.5 - 1) / 2
# Saturation and brightness of as many colors as the eye tells apart by their hues, then of as many
# more.
SHADES = ((0.9, 1.0), (0.5, 1.0), (0.9, 0.65))
SHADED_HUES = 10
# In heights of a text: where its box is tried, from its place down.
SHIFTS = (0, 1, -1, 2, -2, 3, -3)
LEGIBLE = 224  # in pixels: the least longer side of an image that lines are written on


def distinct_colors(number: int) -> list[tuple[int, int, int]]:
    """RGB colors for classes that have none: bright, and far from those before, in each run."""
    colors = []
    for index in range(number):
        hue = index * GOLDEN_RATIO % 1  # which spreads any number of hues evenly
        saturation, value = SHADES[index // SHADED_HUES % len(SHADES)]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors


def colors_of(metainfo: Mapping[str, Any], defaults: Mapping[str, Any]) -> Sequence[Color]:
    """RGB colors of the classes in ``metainfo``: its palette, or distinct ones.

    Args:
        metainfo: Of a data set, with ``classes`` and, possibly, ``palette``.
        defaults: What the data set's kind has for them: its colors are of its classes alone.
    """
    classes, palette = tuple(metainfo.get('classes') or ()), metainfo.get('palette')
    others = distinct_colors(len(classes))
    if not isinstance(palette, (list, tuple)) or len(palette) < len(classes):
        return others
    if any(np.shape(color) != (3,) for color in palette):  # one color for all, which mmdet takes
        return others
    is_default = palette == defaults.get('palette')
    return others if is_default and classes != tuple(defaults.get('classes') or ()) else palette


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
        boxes: (n, 4), as (x1, y1, x2, y2) in pixels, the most important first.
        texts: Written at each box.
        colors: RGB, of each box.
        masks: (height, width) bool, of each box, or none; taken one by one.

    Returns:
        (height, width, 3), RGB uint8.
    """
    picture = image.copy()
    width = max(1, round(max(image.shape[:2]) / 500))  # of lines
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
    last = np.array(image.shape[1::-1] * 2) - 1
    for box, color in zip(boxes.round().clip(0, last).astype(int).tolist(), colors, strict=True):
        cv2.rectangle(picture, box[:2], box[2:], color, width)
    return _draw_texts(picture, boxes[:, :2].tolist(), texts, colors)


def draw_classes_of_pixels(
    image: np.ndarray, class_map: np.ndarray, classes: Sequence[str], palette: Sequence[Color]
) -> np.ndarray:
    """Color each pixel by its class, and write the classes' names where there is room.

    Args:
        image: (height, width, 3), RGB uint8.
        class_map: (height, width), the class of each pixel; one that is none stays as it is.
        classes: Names of the classes.
        palette: RGB, of each class.

    Returns:
        (height, width, 3), RGB uint8.
    """
    known = class_map < len(classes)
    painted = np.where(known[..., None], np.array(palette, np.uint8)[class_map * known], image)
    picture = cv2.addWeighted(image, 1 - OPACITY, painted, OPACITY, 0)
    present = np.unique(class_map[known]).tolist()
    places = {index: _innermost(class_map == index) for index in present}
    named = [index for index, (_, room) in places.items() if room >= _text_size(image)]
    return _draw_texts(
        picture,
        [places[index][0] for index in named],
        [classes[index] for index in named],
        [palette[index] for index in named],
        centered=True,
    )


def draw_text(image: np.ndarray, text: str) -> np.ndarray:
    """Write lines into the upper left corner of an image, (height, width, 3) RGB uint8.

    A small image is enlarged, so that they do not hide it.
    """
    scale = max(1, LEGIBLE / max(image.shape[:2]))
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return _draw_texts(image, [(0, 0)], [text], [(0, 0, 0)])


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
    anchors: Sequence[Sequence[float]],
    texts: Sequence[str],
    colors: Sequence[Color],
    centered: bool = False,
) -> np.ndarray:
    """Write texts on boxes of a color, above, or centered on, their anchors (x, y).

    A box that would hide an earlier one moves up or down; where it finds no room, it is behind.
    """
    picture = Image.fromarray(image)
    canvas = ImageDraw.Draw(picture)
    size = _text_size(image)
    pad = size // 6
    boxes = np.zeros((len(texts), 4))
    for index, ((x, y), text) in enumerate(zip(anchors, texts, strict=True)):
        left, top, right, bottom = _text_box(canvas, text, size)
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        x, y = (x - width / 2, y - height / 2) if centered else (x, y - height)
        # Inside the picture, whatever the anchor.
        x = max(0, min(x, picture.width - width))
        y = max(0, min(y, picture.height - height))
        tried = [
            np.array([x, y + shift, x + width, y + shift + height])
            for shift in np.multiply(SHIFTS, height + 1)
            if 0 <= y + shift <= max(0, picture.height - height)
        ]
        free = (box for box in tried if not _overlaps(box, boxes[:index]))
        boxes[index] = next(free, tried[0])
    for (x, y, right, bottom), text, color in reversed(
        list(zip(boxes.tolist(), texts, colors, strict=True))
    ):
        left, top, *_ = _text_box(canvas, text, size)
        canvas.rectangle((x, y, right, bottom), fill=tuple(color))
        canvas.multiline_text(
            (x + pad - left, y + pad - top),
            text,
            font=font_for(text, size),
            fill=_contrasting(color),
        )
    return np.asarray(picture)


def _text_box(canvas: ImageDraw.ImageDraw, text: str, size: int) -> tuple[float, ...]:
    """Left, top, right and bottom of a text in pixels, written at (0, 0)."""
    return canvas.multiline_textbbox((0, 0), text, font=font_for(text, size))


def _overlaps(box: np.ndarray, others: np.ndarray) -> bool:
    """Whether a box (4,), as (x1, y1, x2, y2), overlaps one of others (n, 4)."""
    return bool(((box[:2] < others[:, 2:]) & (others[:, :2] < box[2:])).all(1).any())


def _contrasting(color: Color) -> str:
    """Black or white, whichever has the higher contrast to a color (WCAG 2.1)."""
    luminance = np.dot((np.array(color) / 255) ** 2.2, (0.2126, 0.7152, 0.0722))
    return 'black' if luminance > 0.179 else 'white'
