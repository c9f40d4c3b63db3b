"""Synthetic drawings of shapes: paper cut-outs on printed ground, with their visible masks.

A drawing holds figures of the classes in ``METAINFO`` and distractors of no class. Color, print,
place and size do not depend on the class, so that only the shape tells it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

METAINFO: dict[str, Any] = dict(
    classes=('square', 'triangle', 'ring', 'cross'),
    palette=[(228, 26, 28), (55, 126, 184), (255, 191, 0), (152, 78, 163)],
)

SUPERSAMPLING = 4
# People may not recognize a figure of which less shows.
MIN_VISIBLE_FRACTION = 0.65
ATTEMPTS_TO_PLACE = 20
GROUND_CONTRAST = 0.12
PAPER_CONTRAST = 0.3
MIN_COLOR_DISTANCE = 0.4
SHADOW = 0.5

# Returns closed polygons (points, 2) inside the unit circle; a second one is a hole in the first.
Outline = Callable[[np.random.Generator], list[np.ndarray]]


@dataclass(frozen=True)
class Instance:
    """A figure in a scene.

    Attributes:
        label: Index of its class.
        mask: (size, size) bool, where it can be seen.
    """

    label: int
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A drawing.

    Attributes:
        image: (size, size, 3), BGR uint8.
        instances: Its figures, the backmost first.
    """

    image: np.ndarray
    instances: list[Instance]


def draw_scene(
    rng: np.random.Generator,
    size: int,
    num_figures: tuple[int, int] = (4, 10),
    num_distractors: tuple[int, int] = (2, 6),
    diameters: tuple[float, float] = (0.1, 0.45),
) -> Scene:
    """Draw figures and distractors on top of each other; most of each figure stays visible.

    Args:
        rng: The only source of randomness.
        size: Side of the square drawing in pixels.
        num_figures: Least and greatest number of figures; a crowded drawing may end with fewer,
            but never with none.
        num_distractors: Least and greatest number of distractors.
        diameters: Smallest and largest diameter, as parts of ``size``.
    """
    canvas = _Canvas(rng, size)
    figures = rng.integers(len(FIGURES), size=rng.integers(*num_figures, endpoint=True))
    labels = [*figures.tolist(), *[None] * int(rng.integers(*num_distractors, endpoint=True))]
    for index in rng.permutation(len(labels)):
        label = labels[index]
        for _ in range(ATTEMPTS_TO_PLACE):
            diameter = size * math.exp(rng.uniform(*np.log(diameters)))
            if label is None:
                outline = DISTRACTORS[rng.integers(len(DISTRACTORS))]
            else:
                outline = FIGURES[METAINFO['classes'][label]]
            if canvas.place(outline(rng), diameter, label):
                break
    return canvas.finish()


def _arc(start: float, stop: float, points: int = 64) -> np.ndarray:
    angles = np.linspace(start, stop, points)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _polygon(corners: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Polygon with points along its edges too, so that a distortion bends them."""
    starts = np.asarray(corners, dtype=float)
    steps = np.linspace(0, 1, 12, endpoint=False)[:, None]
    return np.concatenate(
        [
            start + (end - start) * steps
            for start, end in zip(starts, np.roll(starts, -1, axis=0), strict=True)
        ]
    )


def _regular_polygon(corners: int) -> np.ndarray:
    return _polygon(_arc(0, 2 * math.pi, corners + 1)[:-1])


def _ring(rng: np.random.Generator) -> list[np.ndarray]:
    circle = _arc(0, 2 * math.pi)
    return [circle, circle * rng.uniform(0.48, 0.65)]


def _cross(rng: np.random.Generator) -> list[np.ndarray]:
    half_width = rng.uniform(0.24, 0.34)
    arm = np.array([[1, -half_width], [1, half_width], [half_width, half_width]])
    return [_polygon(np.concatenate([arm @ _rotation(turn * math.pi / 2) for turn in range(4)]))]


def _blob(rng: np.random.Generator) -> list[np.ndarray]:
    angles = np.linspace(0, 2 * math.pi, 64)
    waves = [np.sin(lobes * angles + rng.uniform(0, 2 * math.pi)) for lobes in (2, 3)]
    radius = 0.6 + 0.4 * np.tensordot(rng.dirichlet((2, 2)), waves, axes=1)
    return [_arc(0, 2 * math.pi) * radius[:, None]]


def _open_ring(rng: np.random.Generator) -> list[np.ndarray]:
    span = rng.uniform(0.6, 1.1) * math.pi
    return [np.concatenate([_arc(0, span), _arc(span, 0) * rng.uniform(0.6, 0.75)])]


def _bar(rng: np.random.Generator) -> list[np.ndarray]:
    half_width = rng.uniform(0.08, 0.2)
    return [_polygon([[-1, -half_width], [1, -half_width], [1, half_width], [-1, half_width]])]


def _chevron(rng: np.random.Generator) -> list[np.ndarray]:
    tip, foot = rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.45)
    return [
        _polygon([[-1, 0.5], [0, -tip], [1, 0.5], [1 - foot, 0.6], [0, 0.4 - tip], [foot - 1, 0.6]])
    ]


FIGURES: dict[str, Outline] = dict(
    square=lambda rng: [_regular_polygon(4)],
    triangle=lambda rng: [_regular_polygon(3)],
    ring=_ring,
    cross=_cross,
)
DISTRACTORS: tuple[Outline, ...] = (_blob, _open_ring, _bar, _chevron)


def _distort(rng: np.random.Generator, outline: list[np.ndarray]) -> list[np.ndarray]:
    """Turn, squeeze along some axis and bend the lines a little, as if cut by hand."""
    first, second = rng.uniform(0, 2 * math.pi, size=2)
    matrix = _rotation(first) @ np.diag([1, rng.uniform(0.75, 1)]) @ _rotation(second)
    bend, phases = rng.uniform(0, 0.05), rng.uniform(0, 2 * math.pi, size=2)
    return [
        points @ matrix + bend * np.sin(3 * points @ _rotation(first) + phases)
        for points in outline
    ]


def _rotation(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def _color(rng: np.random.Generator) -> np.ndarray:
    """Random color, BGR in [0, 1]."""
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(0.1, 0.85), rng.uniform(0.3, 1)]]])
    return cv2.cvtColor(hsv.astype(np.float32), cv2.COLOR_HSV2BGR)[0, 0]


def _pattern(rng: np.random.Generator, height: int, width: int, unit: float) -> np.ndarray:
    """Random print, (height, width) in [0, 1]: stripes, checks, dots, clouds or grain.

    ``unit`` scales its details, in pixels.
    """
    kind = rng.choice(['stripes', 'checks', 'dots', 'clouds', 'grain'])
    if kind in ('clouds', 'grain'):
        spacing = unit * rng.uniform(8, 20, size=2)
        if kind == 'grain':
            spacing[0] /= 8
        noise = rng.random(np.ceil((height, width) / spacing).astype(int) + 1, dtype=np.float32)
        return np.clip(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    axes = 2 * math.pi / (unit * rng.uniform(4, 14)) * _rotation(rng.uniform(0, math.pi))
    y, x = np.ogrid[:height, :width]
    u, v = (np.sin(a * x + b * y, dtype=np.float32) for a, b in axes.astype(np.float32))
    wave = dict(stripes=u, checks=2 * u * v, dots=u + v - 0.8)[str(kind)]
    # Steep enough to look printed, not so steep as to alias.
    return np.clip(0.5 + 2 * wave, 0, 1)


class _Canvas:
    """An unfinished drawing; each cut-out lies on top of what is there and hides it."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.size = size
        self.ground_color = _color(rng)
        self.light = _rotation(rng.uniform(0, 2 * math.pi))[0]
        self.labels: list[int] = []
        self.areas: list[int] = []  # of the figures, in pixels, before anything hid them
        self.owner = np.full((size, size), -1, dtype=np.int16)  # index of the figure on top, or -1
        self.image = self._paper(size, size, self.ground_color, GROUND_CONTRAST)
        self._scatter_specks()

    def place(self, outline: list[np.ndarray], diameter: float, label: int | None) -> bool:
        """Lay a cut-out at a random place; False if it would hide too much of a figure there."""
        radius = diameter / 2
        margin = min(0.7 * radius, self.size / 2)
        center = self.rng.uniform(margin, self.size - margin, size=2)
        window, coverage = self._cut(
            [center + radius * points for points in _distort(self.rng, outline)]
        )
        image, owner, covered = self.image[window], self.owner[window], coverage >= 0.5
        visible = np.bincount(self.owner[self.owner >= 0], minlength=len(self.areas))
        hidden = np.bincount(owner[covered & (owner >= 0)], minlength=len(self.areas))
        if np.any(visible - hidden < MIN_VISIBLE_FRACTION * np.array(self.areas)):
            return False
        self._cast_shadow(image, coverage)
        color = _color(self.rng)
        while np.linalg.norm(color - self.ground_color) < MIN_COLOR_DISTANCE:
            color = _color(self.rng)
        height, width = coverage.shape
        _paint(image, coverage, self._paper(height, width, color, PAPER_CONTRAST))
        if label is None:
            owner[covered] = -1
        else:
            owner[covered] = len(self.labels)
            self.labels.append(label)
            self.areas.append(int(np.count_nonzero(covered)))
        return True

    def finish(self) -> Scene:
        """Add a camera's noise and read the masks."""
        noise = self.rng.standard_normal(self.image.shape, dtype=np.float32)
        image = self.image + np.float32(self.rng.uniform(0, 0.03)) * noise
        return Scene(
            np.clip(255 * image, 0, 255).astype(np.uint8),
            [Instance(label, self.owner == index) for index, label in enumerate(self.labels)],
        )

    def _paper(self, height: int, width: int, color: np.ndarray, contrast: float) -> np.ndarray:
        """Printed paper, (height, width, 3) in [0, 1], of a color and another that is near it."""
        print_color = color + self.rng.uniform(-contrast, contrast, size=3).astype(np.float32)
        pattern = _pattern(self.rng, height, width, self.size / 100)
        return color + pattern[..., None] * (np.clip(print_color, 0, 1) - color)

    def _scatter_specks(self) -> None:
        """Print dots and thin lines on the ground."""
        side = self.size * SUPERSAMPLING
        drawing = np.zeros((side, side), dtype=np.uint8)
        for _ in range(self.rng.integers(5, 25)):
            center = self.rng.integers(side, size=2).tolist()
            cv2.circle(drawing, center, int(side * self.rng.uniform(0.004, 0.012)), 255, -1)
        for _ in range(self.rng.integers(4)):
            start, end = self.rng.integers(side, size=(2, 2)).tolist()
            cv2.line(drawing, start, end, 255, int(side * self.rng.uniform(0.003, 0.01)) + 1)
        _paint(self.image, _coverage(drawing), _color(self.rng))

    def _cut(self, contours: list[np.ndarray]) -> tuple[tuple[slice, slice], np.ndarray]:
        """Window of the canvas around the contours and their shadow, and coverage of its pixels."""
        margin = 0.06 * self.size
        points = np.concatenate(contours)
        left, top = np.clip(points.min(axis=0) - margin, 0, self.size).astype(int).tolist()
        right, bottom = np.clip(points.max(axis=0) + margin, 0, self.size).astype(int).tolist()
        drawing = np.zeros(
            ((bottom - top) * SUPERSAMPLING, (right - left) * SUPERSAMPLING), dtype=np.uint8
        )
        cv2.fillPoly(
            drawing,
            [
                np.round((contour - (left, top)) * SUPERSAMPLING).astype(np.int32)
                for contour in contours
            ],
            255,
        )
        return (slice(top, bottom), slice(left, right)), _coverage(drawing)

    def _cast_shadow(self, image: np.ndarray, coverage: np.ndarray) -> None:
        height, width = coverage.shape
        reach = 0.015 * self.size
        shift = np.array([[1, 0, reach * self.light[0]], [0, 1, reach * self.light[1]]])
        shadow = cv2.warpAffine(
            cv2.GaussianBlur(coverage, (0, 0), 0.7 * reach), shift, (width, height)
        )
        image *= 1 - np.float32(SHADOW) * shadow[..., None]


def _coverage(drawing: np.ndarray) -> np.ndarray:
    """Part of each pixel that a supersampled white-on-black drawing covers, in [0, 1]."""
    height, width = (side // SUPERSAMPLING for side in drawing.shape)
    small = cv2.resize(drawing, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def _paint(image: np.ndarray, coverage: np.ndarray, paint: np.ndarray) -> None:
    """Paint over an image, in place, where it is covered."""
    image += coverage[..., None] * (paint - image)
