"""Tables with a row a class, as Markdown and on the terminal."""

from rich.console import Console
from rich.table import Column, Table

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
        lines += [
            [name.replace('|', '\\|'), *map(percent, row.values())] for name, row in rows.items()
        ]
        table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
        parts.append(f'## {TITLES[key]}\n\n{table}\n')
    return '\n'.join(parts)


def print_tables(tables: Tables) -> None:
    """Print tables on the terminal, in percent."""
    for key, rows in tables.items():
        table = class_table(*rows[ALL_CLASSES], title=TITLES[key])
        for name, row in rows.items():
            table.add_row(name, *map(percent, row.values()), end_section=name == ALL_CLASSES)
        print_table(table)


def class_table(*columns: str, title: str | None = None) -> Table:
    """An empty table for the terminal with a row a class; long names may differ in their ends."""
    return Table(Column('class', overflow='fold'), *columns, title=title)


def print_table(table: Table) -> None:
    """Print a table on the terminal, with names as they are: brackets are no markup in them."""
    Console(markup=False, emoji=False).print(table)


def percent(value: float | None) -> str:
    """A part in percent, or a dash where there is none."""
    return '-' if value is None else f'{100 * value:.1f}'
