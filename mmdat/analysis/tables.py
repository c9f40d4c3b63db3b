"""Tables with a row a class, as Markdown and on the terminal."""

from rich.console import Console
from rich.table import Table

ALL_CLASSES = 'all classes'
# Key of a table -> its title.
TITLES = dict(
    bbox='Box AP (%)', segm='Mask AP (%)', iou='Segmentation (%)', accuracy='Classification (%)'
)

# {key of TITLES: {class or ALL_CLASSES: {column: part in [0, 1], or None where there is nothing}}}
Tables = dict[str, dict[str, dict[str, float | None]]]


def to_markdown(tables: Tables) -> str:
    """Write tables as Markdown, in percent."""
    parts = []
    for key, rows in tables.items():
        columns = list(rows[ALL_CLASSES])
        lines = [['class', *columns], ['---'] + ['---:'] * len(columns)]
        lines += [[name, *map(percent, row.values())] for name, row in rows.items()]
        table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
        parts.append(f'## {TITLES[key]}\n\n{table}\n')
    return '\n'.join(parts)


def print_tables(tables: Tables) -> None:
    """Print tables on the terminal, in percent."""
    console = Console()
    for key, rows in tables.items():
        table = Table('class', *rows[ALL_CLASSES], title=TITLES[key])
        for name, row in rows.items():
            table.add_row(name, *map(percent, row.values()), end_section=name == ALL_CLASSES)
        console.print(table)


def percent(value: float | None) -> str:
    """A part in percent, or a dash where there is none."""
    return '-' if value is None else f'{100 * value:.1f}'
