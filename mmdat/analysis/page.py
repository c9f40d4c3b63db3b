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

from mmdat.files import whole_file
from mmdat.visualization.curves import save_figure

from .tables import TITLES, percent

JPEG_QUALITY = 85
# Of more classes, those that are most often confused are shown.
MOST_CLASSES = 20
# Share of a row above which a cell of the confusion matrix is dark.
DARK = 0.85

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 1200px; margin: 0 auto; padding: 1rem; }
h1 { overflow-wrap: anywhere; margin: 0 0 .5rem; }
h2 { margin: 2rem 0 .5rem; border-bottom: 1px solid #ccc; }
img { max-width: 100%; height: auto; display: block; }
p { color: #444; margin: .3rem 0 .7rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
.tables { display: flex; flex-wrap: wrap; gap: 0 2.5rem; }
.tables > div { max-width: 100%; }
.grid { display: grid; gap: .5rem;
        grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); }
.third { grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); }
table { border-collapse: collapse; }
th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; font-weight: normal; white-space: normal;
                 max-width: min(22em, 40vw); overflow-wrap: break-word; }
thead th { border-bottom: 2px solid #999; font-weight: bold; }
thead th:first-child { font-weight: bold; }
tbody tr:nth-child(even) { background: #f4f4f4; }
table.confusion tbody tr { background: #fff; }
table.confusion td { padding: .2rem; min-width: 2.3em; text-align: center; border: 1px solid #fff; }
table.confusion thead th { writing-mode: vertical-rl; transform: rotate(180deg);
                           text-align: left; font-weight: normal; border: 0; padding: .4rem .1rem; }
table.confusion thead th:first-child { writing-mode: initial; transform: none; color: #555;
                                       vertical-align: bottom; padding: .2rem .6rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<dl>
{% for name, value in facts.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}</dl>
<h2>Curves of the training</h2>
{% if not curves %}<p>There is no log of a training beside the results.</p>{% endif %}
<div class="grid wide">
{% for curve in curves %}<img src="{{ curve | png }}" alt="Losses, learning rate or metrics">
{% endfor %}</div>
<h2>By class, in percent</h2>
<div class="tables">
{% for key, rows in tables.items() %}<div>
<h3>{{ titles[key] }}</h3>
<div class="scroll"><table>
<thead><tr><th>class</th>{% for name in (rows.values() | first) %}<th>{{ name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for name, row in rows.items() %}<tr><th>{{ name }}</th>{% for value in row.values() %}\
<td>{{ value | percent }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div></div>
{% endfor %}</div>
<h2>Confusion matrix</h2>
<p>{{ confusion.text }}</p>
<div class="scroll"><table class="confusion">
<thead><tr><th>truth \\ prediction</th>{% for name in confusion.names %}<th>{{ name }}</th>\
{% endfor %}</tr></thead>
<tbody>
{% for name, row in confusion.rows %}<tr><th>{{ name }}</th>{% for count, share in row %}\
<td title="{{ count }}" style="background: rgba(0, 114, 178, {{ '%.2f' % share }})\
{{ '; color: #fff' if share > dark }}">{{ '%.0f' % (100 * share) if count else '' }}</td>\
{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<h2>Predictions beside the truth</h2>
<p>Images of the test set, spaced evenly.{{ pictures_text }}</p>
<div class="grid{{ ' wide' if paired }}">
{% for picture in pictures %}<img src="{{ picture | jpeg }}" alt="Truth and prediction">
{% endfor %}</div>
{% if points %}<h2>Where deformable attention looks</h2>
<p>{{ points_text }}</p>
<div class="grid third">
{% for picture in points %}<img src="{{ picture | jpeg }}" alt="Deformed points">
{% endfor %}</div>
{% endif %}</body>
</html>
"""


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
        content: What :data:`TEMPLATE` names: texts, tables, pictures as (height, width, 3), RGB
            uint8, and figures of matplotlib.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(percent=percent, jpeg=_jpeg, png=_png)
    text = environment.from_string(TEMPLATE).render(content, titles=TITLES, dark=DARK)
    with whole_file(path) as partial:
        partial.write_text(text, encoding='utf-8')


def _jpeg(picture: np.ndarray) -> str:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return _data_uri('jpeg', content.tobytes())


def _png(figure: Figure) -> str:
    """A drawing of thin lines, which JPEG would blur."""
    buffer = io.BytesIO()
    save_figure(figure, buffer)
    return _data_uri('png', buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
