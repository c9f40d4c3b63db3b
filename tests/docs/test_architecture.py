"""The pages for contributors name what there is."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.imports import ROOT, imported_modules

from mmdat import checks

PAGES = ['CONTRIBUTING.md', 'docs/architecture.md']
ROOMS = {path.parent.name for path in (ROOT / 'mmdat').glob('*/__init__.py')}


def code_in(page: str) -> list[str]:
    """Everything in single backticks."""
    text = re.sub(r'```.*?```', '', (ROOT / page).read_text(), flags=re.DOTALL)
    return sorted(set(re.findall(r'`([^`\n]+)`', text)))


CODE = [(page, code) for page in PAGES for code in code_in(page)]
PATHS = [(page, code.split()[0]) for page, code in CODE if re.match(r'[\w.]+(/|\.\w+$)', code)]
PATHS = [(p, path) for p, path in PATHS if not path.startswith(('mmdat.', 'mmengine.', '.venv'))]


def resolve(name: str) -> Any:
    """Import the longest part of a dotted name that is a module, and take its attributes."""
    parts = name.split('.')
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module('.'.join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(name)


def test_the_diagram_has_the_imports_between_rooms() -> None:
    page = (ROOT / 'docs/architecture.md').read_text()
    drawn = set(re.findall(r'^ *(\w+) --> (\w+)$', page, re.MULTILINE))
    imported = {
        (room, name.split('.')[1])
        for room in ROOMS
        for path in (ROOT / 'mmdat' / room).rglob('*.py')
        for name in imported_modules(path)
        if name.startswith('mmdat.')
    }
    between = {(a, b) for a, b in imported if b in ROOMS and a != b}
    assert drawn == between


def test_each_room_has_a_row() -> None:
    rows = re.findall(r'^\| `mmdat/(\w+)/`', (ROOT / 'docs/architecture.md').read_text(), re.M)
    assert sorted(rows) == sorted(ROOMS)


def test_the_page_lists_the_checks_that_their_room_lists() -> None:
    page = (ROOT / 'docs/architecture.md').read_text().split('## Which check runs when')[1]
    on_page = re.findall(r'`mmdat\.checks\.([\w.]+)`', page.split('\n## ')[0])
    rows = [line.split('|') for line in (checks.__doc__ or '').splitlines() if line.count('|') == 2]
    in_room = [name for row in rows for name in re.findall(r'`([\w.]+)`', row[1])]
    assert in_room and on_page == in_room


@pytest.mark.parametrize('page, path', PATHS)
def test_a_path_exists(page: str, path: str) -> None:
    assert Path(ROOT, path).exists(), f'{page} names {path}'


@pytest.mark.parametrize(
    'page, name', [(page, code) for page, code in CODE if re.match(r'(mmdat|mmengine)\.', code)]
)
def test_a_name_can_be_imported(page: str, name: str) -> None:
    resolve(name)


@pytest.mark.parametrize('page, command', [(p, c) for p, c in CODE if c.startswith('make ')])
def test_a_target_of_make_exists(page: str, command: str) -> None:
    target = command.split()[1]
    assert re.search(rf'^{target}:', (ROOT / 'Makefile').read_text(), re.MULTILINE)
