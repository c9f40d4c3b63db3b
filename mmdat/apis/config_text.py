"""Text of a config: values as Python that a person can read."""

from dataclasses import dataclass
from typing import Any

WIDTH = 100
INDENT = 4


@dataclass(frozen=True)
class Code:
    """An expression of a config, such as the name of a variable in it."""

    text: str


def assignment(name: str, value: Any) -> str:
    """Write a line, or lines, that assign a value.

    Example:
        >>> print(assignment('model', {'head': {'num_classes': 3}, '**': Code('more')}))
        model = dict(head=dict(num_classes=3), **more)
    """
    return f'{name} = {_layout(value, len(name) + 3, 0)}'


def _layout(value: Any, column: int, indent: int) -> str:
    """Write a value, in one line if it fits behind ``column``; else its items go on lines below."""
    line = _line(value)
    items = _items(value)
    if column + len(line) < WIDTH or items is None:
        return line
    begin, parts, end = items
    indent += INDENT
    lines = [' ' * indent]
    for index, (key, part) in enumerate(parts):
        close = end if index == len(parts) - 1 else ','
        text = key + _line(part) + close
        if len(lines[-1]) + 1 + len(text) > WIDTH and lines[-1].strip():
            lines.append(' ' * indent)
        if len(lines[-1]) + 1 + len(text) > WIDTH:
            text = key + _layout(part, indent + len(key) + len(close), indent) + close
        lines[-1] += (' ' if lines[-1].strip() else '') + text
        if '\n' in text and close == ',':
            lines.append(' ' * indent)
    return begin + '\n' + '\n'.join(lines)


def _items(value: Any) -> tuple[str, list[tuple[str, Any]], str] | None:
    """Brackets and items of a dict, list or tuple that is not empty; None of any other value."""
    if isinstance(value, dict) and value:
        if all(str(key).isidentifier() or key == '**' for key in value):
            named = [(key if key == '**' else f'{key}=', item) for key, item in value.items()]
            return 'dict(', named, ')'
        return '{', [(f'{key!r}: ', item) for key, item in value.items()], '}'
    if isinstance(value, (list, tuple)) and value:
        begin, end = '[]' if isinstance(value, list) else '()'
        if isinstance(value, tuple) and len(value) == 1:
            end = ',)'
        return begin, [('', item) for item in value], end
    return None


def _line(value: Any) -> str:
    """Write a value as Python in a single line, however long."""
    if isinstance(value, Code):
        return value.text
    items = _items(value)
    if items is None:
        return 'dict()' if value == {} else repr(value)
    begin, parts, end = items
    return begin + ', '.join(key + _line(part) for key, part in parts) + end
