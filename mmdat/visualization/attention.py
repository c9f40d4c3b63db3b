"""Pictures of what attention looks at, drawn over the image.

All of them take the image, (height, width, 3) RGB uint8, and a recording that maps from it, and
return (height, width, 3) RGB uint8: the image in its own size, very small and large ones in
another, with a title above and a legend below. Queries are (x, y) in pixels of the image.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from mmdat.errors import UserError

from .recording import RecordedBlock, Recording

# In pixels: the least and the greatest longer side of the image in a picture.
LEGIBLE, LARGEST = 480, 4096
NARROWEST = 320  # in pixels: the room for a title above a narrow image
LEAST_DIAMETER = 7  # in pixels, of the largest points
DPI = 100
GAP = 8  # in pixels, between pictures and around them
COLORS = colormaps['viridis']
# Okabe and Ito's colors, which color-blind people tell apart; without black.
DISTINCT = ('#E69F00', '#56B4E9', '#009E73', '#F0E442', '#0072B2', '#D55E00', '#CC79A7', '#FFFFFF')
QUERY_COLOR = '#D55E00'
# Keys that are attended so many times the mean, or more, have the last color and largest size.
MOST_TIMES = 4
MOST_ARROWS = 150  # in a picture; of more, some reference points are left out
TOP_SHARE = 0.8  # of the attention, whose keys are drawn
LEAST_WEIGHT = 1e-6  # of a key in a window; a mask hides others

Draw = Callable[[Axes], None]


def draw_deformed_points(
    image: np.ndarray, recording: Recording, blocks: Sequence[RecordedBlock] | None = None
) -> np.ndarray:
    """Draw where deformable attention samples its keys, sized by how much they are attended.

    Args:
        image: (height, width, 3), RGB uint8.
        recording: Of that image.
        blocks: Its deformable blocks to draw, a picture each; the last one if None.

    Returns:
        (height, width, 3), RGB uint8.

    Raises:
        UserError: If there is no deformable block.
    """
    height, width = image.shape[:2]

    def panel(block: RecordedBlock) -> tuple[str, Draw]:
        points = recording.mapping.to_image(block.sampling_locations).flatten(0, 2)
        received = block.attended().unflatten(0, (block.groups, -1)).mean(1).flatten()
        relative = received / received.mean()
        # Points of average attention cover a seventh of the image, if that makes them not large.
        average = min(math.sqrt(height * width / 7 / len(points)), 0.03 * min(height, width))
        largest = average * math.sqrt(MOST_TIMES)

        def draw(axes: Axes) -> None:
            colors = relative.log2() / math.log2(MOST_TIMES) / 2 + 0.5
            _scatter(axes, points, colors, (relative / MOST_TIMES).clamp(1 / 16, 1), largest)

        return block.title, draw

    if blocks is None:
        blocks = [recording.last('deformable')]
    marks = [
        _mark(1, 1, f'attended {MOST_TIMES} times the mean, or more'),
        _mark(0.5, 1 / MOST_TIMES, 'as the mean'),
        _mark(0, 1 / MOST_TIMES**2, f'1/{MOST_TIMES} of it, or less'),
    ]
    return _arrange(image, [panel(block) for block in blocks], marks)


def draw_offsets(
    image: np.ndarray, recording: Recording, blocks: Sequence[RecordedBlock] | None = None
) -> np.ndarray:
    """Draw how far deformable attention moves its keys, as arrows from the reference points.

    Args:
        image: (height, width, 3), RGB uint8.
        recording: Of that image.
        blocks: Its deformable blocks to draw, a picture each; the last one if None.

    Returns:
        (height, width, 3), RGB uint8.

    Raises:
        UserError: If there is no deformable block.
    """
    blocks = [recording.last('deformable')] if blocks is None else blocks
    groups = max(block.groups for block in blocks)
    arrows = max(block.offsets[..., 0].numel() for block in blocks)
    step = math.ceil(math.sqrt(arrows / MOST_ARROWS))

    def drawer(block: RecordedBlock) -> Draw:
        start, ends = (
            recording.mapping.to_image(points[..., step // 2 :: step, step // 2 :: step, :])
            for points in (block.reference_points, block.sampling_locations)
        )
        start, ends = start.flatten(0, 1), ends.flatten(1, 2)

        def draw(axes: Axes) -> None:
            for group, end in enumerate(ends):
                _arrows(axes, start, end, DISTINCT[group % len(DISTINCT)])
            axes.plot(*start.T, 'o', color='white', mec='black', mew=0.7, ms=3.2)

        return draw

    which = 'reference point' + (f' (1 of {step**2} is drawn)' if step > 1 else '')
    marks = [Line2D([], [], color='white', marker='o', mec='black', ms=4, ls='', label=which)]
    for group in range(min(groups, len(DISTINCT))):
        label = f'group {", ".join(str(g + 1) for g in range(group, groups, len(DISTINCT)))}'
        mark = Line2D([], [], color=DISTINCT[group], marker='>', mec='black', mew=0.5, label=label)
        marks.append(mark)
    return _arrange(image, [(block.title, drawer(block)) for block in blocks], marks)


def draw_query(
    image: np.ndarray,
    recording: Recording,
    query: tuple[float, float],
    blocks: Sequence[RecordedBlock] | None = None,
    head: int | None = None,
) -> np.ndarray:
    """Draw the keys that a query attends to, sized by their weight.

    Args:
        image: (height, width, 3), RGB uint8.
        recording: Of that image.
        query: (x, y) in pixels of the image.
        blocks: Its blocks to draw, a picture each; the last one of each stage if None.
        head: Number of a head, from 0; the mean of all if None.

    Returns:
        (height, width, 3), RGB uint8.

    Raises:
        UserError: If the query lies outside the image, or if there is no such head.
    """
    if blocks is None:
        blocks = [recording.last(stage=stage) for stage in recording.stages]
    return _draw_queries(image, [(block.title, recording, block) for block in blocks], query, head)


def draw_models(
    image: np.ndarray,
    recordings: Mapping[str, Recording],
    query: tuple[float, float],
    stage: int | None = None,
) -> np.ndarray:
    """Draw the keys that a query attends to in several models, side by side.

    Args:
        image: (height, width, 3), RGB uint8.
        recordings: Of that image, by the name of the model.
        query: (x, y) in pixels of the image.
        stage: Number of the stage, from 0, whose last block is drawn; the last if None.

    Returns:
        (height, width, 3), RGB uint8.

    Raises:
        UserError: If the query lies outside the image, or if there is no such stage.
    """
    views = []
    for name, recording in recordings.items():
        block = recording.last(stage=stage)
        views.append((f'{name}, {block.title}', recording, block))
    return _draw_queries(image, views, query, None)


def check_query(query: tuple[float, float], image: np.ndarray) -> None:
    """Refuse a query, (x, y) in pixels, that lies outside an image, (height, width, 3).

    Raises:
        UserError: Names the query and the image's size.
    """
    height, width = image.shape[:2]
    if not (0 <= query[0] < width and 0 <= query[1] < height):
        raise UserError(
            f'query {query[0]:g},{query[1]:g} lies outside the image of {width} x {height} pixels'
        )


def _draw_queries(
    image: np.ndarray,
    views: Sequence[tuple[str, Recording, RecordedBlock]],
    query: tuple[float, float],
    head: int | None,
) -> np.ndarray:
    check_query(query, image)
    panels = []
    for title, recording, block in views:
        attention = block.attend(recording.mapping.to_input([query]))
        weights = attention.weights[:, 0].unflatten(0, (block.groups, -1))  # (g, h / g, keys)
        points = recording.mapping.to_image(attention.points[:, 0])
        if head is None:
            weights = weights.mean(1) / block.groups
        elif 0 <= head < block.heads:
            points = points[[head // weights.shape[1]]]
            weights = weights.flatten(0, 1)[[head]]
        else:
            raise UserError(f'there is no head {head + 1} in {title}: it has {block.heads}')
        position = max(abs(scale) for scale in recording.mapping.scale)
        side = None if block.shares_keys else block.stride / position
        panels.append(_query_panel(title, query, points.flatten(0, 1), weights.flatten(), side))
    marks = [
        Line2D([], [], color=QUERY_COLOR, marker='*', mec='black', ms=11, ls='', label='query'),
        _mark(1, 1, 'largest weight'),
        _mark(0.5, 0.5, 'half of it'),
        _mark(0.1, 0.1, 'a tenth of it'),
    ]
    return _arrange(image, panels, marks)


def _query_panel(
    title: str, query: tuple[float, float], points: Tensor, weights: Tensor, side: float | None
) -> tuple[str, Draw]:
    """The picture of a query.

    Args:
        title: Of the picture; what share the drawn keys have is added.
        query: (x, y) in pixels.
        points: (keys, 2), (x, y) in pixels.
        weights: (keys,), which sum up to 1.
        side: Pixels between the keys of a window, around which a frame is drawn; None for others.
    """
    order = weights.argsort(descending=True)
    many = int((weights[order].cumsum(0) < TOP_SHARE).sum()) + 1
    shown = order[:many]
    title = f'{title}\n{many} of {len(weights)} keys hold {TOP_SHARE:.0%} of the attention'

    def draw(axes: Axes) -> None:
        largest = 0.045 * min(axes.get_ylim()[0], axes.get_xlim()[1])
        if side is not None:
            largest = min(largest, max(side, 0.01 * axes.get_xlim()[1]))
            low, high = points[weights > LEAST_WEIGHT].aminmax(dim=0)
            (left, top), (wide, tall) = (low - side / 2).tolist(), (high - low + side).tolist()
            for color, line in (('black', 3.0), ('white', 1.2)):
                frame = Rectangle((left, top), wide, tall, fill=False, ec=color, lw=line)
                axes.add_patch(frame)
        levels = weights[shown] / weights.max()
        _scatter(axes, points[shown], levels, levels, largest)
        for edge, line in (('white', 3), ('black', 0.8)):
            (star,) = axes.plot(*query, '*', color=QUERY_COLOR, mec=edge, mew=line, ms=12, zorder=4)
            star.set_clip_on(False)

    return title, draw


def _scatter(axes: Axes, points: Tensor, colors: Tensor, areas: Tensor, largest: float) -> None:
    """Draw points with an edge that shows on any ground, the largest on top.

    Args:
        axes: With the image.
        points: (n, 2), (x, y) in pixels.
        colors: (n,), from 0 to 1.
        areas: (n,), from 0 to 1.
        largest: Diameter of area 1 in pixels of the image.
    """
    limits = torch.tensor([axes.get_xlim()[1], axes.get_ylim()[0]])
    inside = ((points >= 0) & (points <= limits)).all(-1)
    order = areas.argsort()
    order = order[inside[order]]
    x, y = points[order].T.numpy()
    pixels = axes.bbox.width / axes.get_xlim()[1]  # of the picture for one of the image
    largest = max(largest * pixels, LEAST_DIAMETER) * 72 / DPI
    sizes = largest**2 * areas[order].clamp(min=0.01)
    edge_width = min(2.4, 0.2 * largest)
    for edge, width in (('white', edge_width), ('black', edge_width / 3)):
        axes.scatter(
            x,
            y,
            s=sizes.numpy(),
            c=COLORS(colors[order].clamp(0, 1).numpy()),
            linewidths=width,
            edgecolors=edge,
            zorder=3,
            clip_on=False,  # whole at the border too
        )


def _arrows(axes: Axes, start: Tensor, end: Tensor, color: str) -> None:
    """Draw arrows between points, (n, 2) each, with an edge that shows on any ground."""
    axes.quiver(
        *start.T,
        *(end - start).T,
        angles='xy',
        scale_units='xy',
        scale=1,
        units='dots',
        width=2.2,
        minlength=0,
        color=color,
        edgecolor='black',
        linewidth=0.5,
        zorder=2,
    )


def _mark(color: float, area: float, label: str) -> Line2D:
    """The legend's entry for points of a color and an area, both from 0 to 1."""
    return Line2D(
        [],
        [],
        color=COLORS(float(color)),
        marker='o',
        mec='black',
        mew=0.8,
        ms=11 * math.sqrt(area),
        ls='',
        label=label,
    )


def _arrange(
    image: np.ndarray, panels: Sequence[tuple[str, Draw]], marks: Sequence[Line2D]
) -> np.ndarray:
    """Draw pictures over copies of an image, below their titles and above one legend."""
    height, width = image.shape[:2]
    side = max(height, width)
    scale = min(max(side, LEGIBLE), LARGEST) / side
    high, wide = (max(1, round(scale * length)) for length in (height, width))
    ground = _dimmed(cv2.resize(image, (wide, high), interpolation=cv2.INTER_CUBIC))
    columns = math.ceil(math.sqrt(len(panels))) if len(panels) != 3 else 3
    rows = math.ceil(len(panels) / columns)
    pitch = max(wide, NARROWEST) + GAP
    full = columns * pitch + GAP
    texts = [line for title, _ in panels for line in title.split('\n')]
    # A letter is about 0.55 of its height wide.
    letter = min(
        max(12, 0.55 * math.sqrt(min(high, wide))), (pitch - GAP) / (0.55 * max(map(len, texts)))
    )
    lines = len(texts) // len(panels)
    head = round(1.5 * letter * lines + GAP)
    widths = [letter * (0.55 * len(str(mark.get_label())) + 3.5) for mark in marks]
    entries = len(marks) if sum(widths) < full else max(1, int(full / max(widths)))
    foot = round(1.7 * letter * math.ceil(len(marks) / entries) + GAP)
    tall = rows * (head + high) + foot
    figure = Figure((full / DPI, tall / DPI), dpi=DPI, facecolor='white')
    canvas = FigureCanvasAgg(figure)
    for index, (title, draw) in enumerate(panels):
        row, column = divmod(index, columns)
        left, top = GAP + column * pitch, head + row * (head + high)
        axes = figure.add_axes((left / full, 1 - (top + high) / tall, wide / full, high / tall))
        axes.imshow(ground, extent=(0, width, height, 0), aspect='auto', interpolation='none')
        axes.set_axis_off()
        axes.autoscale(False)
        draw(axes)
        figure.text(
            left / full,
            1 - (top - 0.4 * letter) / tall,
            title,
            fontsize=letter * 72 / DPI,
            va='bottom',
            linespacing=1.25,
        )
    figure.legend(
        handles=marks,
        loc='lower center',
        ncols=entries,
        frameon=False,
        fontsize=letter * 72 / DPI,
        borderaxespad=0.2,
        handletextpad=0.3,
        columnspacing=1.2,
    )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _dimmed(image: np.ndarray) -> np.ndarray:
    """Halve an image's contrast and colors, so that what is drawn stands out."""
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    pale = cv2.addWeighted(image, 0.5, gray, 0.5, 0)
    return cv2.addWeighted(pale, 0.75, np.full_like(pale, 128), 0.25, 0)
