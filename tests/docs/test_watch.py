"""The commands of docs/watch.md are such that the tools take them."""

import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.imports import ROOT

import mmdat.analysis.report
import mmdat.apis.curves
import mmdat.commands
from mmdat.apis.curves import TrainingLog
from mmdat.checks.run import VIS_BACKENDS

PAGE = (ROOT / 'docs/watch.md').read_text()


def test_the_tools_take_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def recorder(name: str) -> Callable[..., Path]:
        def record(*arguments: Any, **_: Any) -> Path:
            calls.append((name, *arguments))
            return Path('curves.png')

        return record

    for module, name in [
        (mmdat.commands, 'train'),
        (mmdat.commands, 'test'),
        (mmdat.apis.curves, 'write_curves'),
        (mmdat.analysis.report, 'write_report'),
    ]:
        monkeypatch.setattr(module, name, recorder(name))
    monkeypatch.setattr(mmdat.apis.curves, 'read_log', lambda work_dir: TrainingLog([], {}))
    monkeypatch.setattr(mmdat.analysis.report, 'print_report', print)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r'```shell\n(.*?)```', PAGE, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    for command in commands:
        tool, *arguments = shlex.split(command)
        if tool != 'pip':
            monkeypatch.setattr(sys, 'argv', [tool, *arguments])
            runpy.run_path(str(ROOT / tool), run_name='__main__')
    names = [name for name, *_ in calls]
    assert names == ['write_curves', 'write_curves', 'train', 'test', 'write_report']
    assert calls[1][1:] == (['work_dirs/mine', 'work_dirs/other'], 'both.png')
    assert calls[2][-1] == ['tensorboard']


def test_the_page_names_all_backends() -> None:
    assert [name for name in VIS_BACKENDS if f'`{name}' not in PAGE] == []
