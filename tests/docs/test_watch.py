"""What docs/watch.md says of a training's logs; test_commands.py runs its commands."""

from helpers.imports import ROOT

from mmdat.checks.run import VIS_BACKENDS

PAGE = (ROOT / 'docs/watch.md').read_text()


def test_the_page_names_all_backends() -> None:
    assert [name for name in VIS_BACKENDS if f'`{name}' not in PAGE] == []
