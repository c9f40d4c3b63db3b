"""Pictures of how losses, learning rates and metrics go during one or several trainings."""

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from .fonts import font_for

# Okabe and Ito's colors, which color-blind people tell apart, without yellow, faint on white.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
LINE_STYLES = ('-', '--', ':', '-.')
# Fewer points of a curve are marked, so that a single one is seen.
MARKED = 30
# Curves of a group that are drawn, where there is one for each of 80 classes.
MOST = 16
# In inches: a panel.
PANEL = (6.0, 3.4)
# How the titles of panels begin, in the order of panels.
ORDER = ('loss', 'validation', 'learning rate', 'parts of the loss')

# {title of a panel: {name of a curve: [(iteration, value), ...]}}
Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]


def draw_curves(runs: Mapping[str, Curves]) -> Figure:
    """Draw curves over the iterations of a training: a panel each group of them.

    Of several trainings each curve has a panel, and each training a color. Values that are no
    numbers are gaps, and their number is in the panel's title.

    Args:
        runs: Name of a training -> its curves. An empty name is not written.

    Returns:
        A figure of matplotlib, to be saved.
    """
    panels = _panels(runs)
    columns = min(len(panels), 2 if len(runs) == 1 else 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure((columns * PANEL[0], rows * PANEL[1] + 0.5), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    order = list(runs)
    last = max(step for _, lines in panels for points in lines.values() for step, _ in points)
    for axis, (title, lines) in zip(axes, panels, strict=False):
        lost, lowest = 0, 0.0
        for index, (name, points) in enumerate(lines.items()):
            index = index if len(runs) == 1 else order.index(name)
            steps, values = zip(*points, strict=True)
            finite = list(filter(math.isfinite, values))
            lost += len(values) - len(finite)
            lowest = min([lowest, *finite])
            axis.plot(
                steps,
                [value if math.isfinite(value) else math.nan for value in values],
                **_style(index),
                marker='o' if len(points) < MARKED else None,
                markersize=3,
                label=name,
            )
        title = f'{title} ({lost} values are not numbers)' if lost else title
        axis.set_title(title, fontproperties=_font([title], 11), parse_math=False)
        axis.set_xlabel('iteration')
        axis.set_xlim(0, 1.02 * last)
        if not title.startswith('validation') and axis.get_ylim()[1] > 0:
            axis.set_ylim(bottom=lowest)
        axis.grid(alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
        if len(runs) == 1 and len(lines) > 1:
            _plain_text(
                axis.legend(
                    prop=_font(lines, 8), loc='center left', bbox_to_anchor=(1, 0.5), frameon=False
                )
            )
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    _name_runs(figure, order)
    return figure


def save_figure(figure: Figure, file: Path | IO[bytes]) -> None:
    """Write a figure as PNG, without a warning for each character that no font has."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph')
        figure.savefig(file, format='png')


def in_order(titles: Iterable[str]) -> list[str]:
    """Titles of panels, each once, in the order in which the panels are drawn."""
    return sorted(
        dict.fromkeys(titles),
        key=lambda title: next(i for i, start in enumerate(ORDER) if title.startswith(start)),
    )


def _panels(runs: Mapping[str, Curves]) -> list[tuple[str, dict[str, Sequence[tuple[int, float]]]]]:
    """Titles of panels with their curves by what the legend says."""
    titles = in_order(title for curves in runs.values() for title in curves)
    if len(runs) == 1:
        curves = next(iter(runs.values()))
        panels = []
        for title in titles:
            lines = dict(itertools.islice(curves[title].items(), MOST))
            if left_out := len(curves[title]) - len(lines):
                title += f', without {left_out} more'
            elif len(lines) == 1 and title.startswith('validation'):
                title = f'validation: {next(iter(lines))}'
            panels.append((title, lines))
        return panels
    panels = []
    for title in titles:
        groups = {run: curves[title] for run, curves in runs.items() if title in curves}
        names = dict.fromkeys(name for group in groups.values() for name in group)
        for name in itertools.islice(names, MOST):
            lines = {run: group[name] for run, group in groups.items() if name in group}
            panels.append((f'validation: {name}' if title.startswith('valid') else name, lines))
    return panels


def _name_runs(figure: Figure, names: Sequence[str]) -> None:
    """Write the name of a training, or the names of several beside their colors, above panels."""
    if names == ['']:
        return
    font = _font(names, 11)
    if len(names) == 1:
        figure.suptitle(names[0], fontproperties=font, parse_math=False)
        return
    lines = [Line2D([], [], **_style(index)) for index in range(len(names))]
    _plain_text(figure.legend(lines, names, loc='outside upper left', ncols=2, prop=font))


def _font(texts: Iterable[str], size: int) -> FontProperties:
    """A font that has the characters of texts, in points."""
    return FontProperties(fname=str(font_for(''.join(texts), size).path), size=size)


def _plain_text(legend: Legend) -> None:
    """Have the dollar signs of names written, not read as those of formulas."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def _style(index: int) -> dict[str, Any]:
    return dict(
        color=COLORS[index % len(COLORS)],
        linestyle=LINE_STYLES[index // len(COLORS) % len(LINE_STYLES)],
        linewidth=1.5,
    )
