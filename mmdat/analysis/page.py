"""A report as one HTML page, which needs no other file and no network."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from matplotlib.figure import Figure

from mmdat.files import write_whole
from mmdat.visualization.curves import save_figure

from .tables import TITLES, percent

JPEG_QUALITY = 85
# Most classes in the confusion matrix: those that are most often confused.
MOST_CLASSES = 20
# Share of a row above which a cell of the confusion matrix is dark.
DARK = 0.85

TEMPLATE = Path(__file__).with_name('report.html')


def shown_confusion(counts: np.ndarray, classes: Sequence[str], text: str) -> dict[str, Any]:
    """Choose what the page shows of a confusion matrix.

    Args:
        counts: (n, n), by true class and by predicted class; one more row and column than there
            are classes are of no object.
        text: What is counted.

    Returns:
        ``text``, ``names`` of the columns, and ``rows``: name of the true class, and of each column
        the number and its share of the row.
    """
    names = [*classes, 'no object'][: len(counts)]
    shown = list(range(len(counts)))
    if len(classes) > MOST_CLASSES:
        errors = counts.sum(0) + counts.sum(1) - 2 * np.diag(counts)
        most = np.argsort(-errors[: len(classes)], kind='stable')[:MOST_CLASSES]
        shown = [*sorted(most.tolist()), *range(len(classes), len(counts))]
        text += f' The {MOST_CLASSES} of {len(classes)} classes that are most often confused.'
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    rows = [(names[i], [(int(counts[i, j]), float(shares[i, j])) for j in shown]) for i in shown]
    return dict(text=text, names=[names[i] for i in shown], rows=rows)


def write_page(path: Path, **content: Any) -> None:
    """Write a page.

    Args:
        content: What ``report.html`` names: texts, tables, pictures as (height, width, 3), RGB
            uint8, and figures of matplotlib.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(percent=percent, jpeg=_jpeg, png=_png)
    template = environment.from_string(TEMPLATE.read_text(encoding='utf-8'))
    text = template.render(content, titles=TITLES, dark=DARK)
    write_whole(path, text)


def _jpeg(picture: np.ndarray) -> str:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return _data_uri('jpeg', content.tobytes())


def _png(figure: Figure) -> str:
    """Encode a drawing as PNG, as JPEG would blur its thin lines."""
    buffer = io.BytesIO()
    save_figure(figure, buffer)
    return _data_uri('png', buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
