"""Each command of README and docs runs in a test, or its page says above it why it does not.

``<!-- not run: BEGINNING, BEGINNING: REASON -->`` directly above a block marks its commands that
begin so; commands in the text may be marked on any page.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers.imports import ROOT
from helpers.published import classifier_checkpoint
from helpers.scripts import run_tool

from mmdat.__main__ import main as mmdat_command

PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
MARK = re.compile(r'<!-- not run: (.+?): .+? -->')
BLOCK = re.compile(
    r'((?:<!-- not run: [^\n]+ -->\n)*)```(?:shell|bash|sh|console)\n(.*?)```', re.DOTALL
)
FENCED = re.compile(r'^```.*?^```', re.DOTALL | re.MULTILINE)
# What calls a program, rather than names it or a flag of it.
INLINE = re.compile(
    r'(\w+=\S+ )*(\S*python |(docker|make|mim|mlflow|pre-commit|tensorboard|twine|uv) |'
    r'(apt|pip) install (?!-)|pip wheel |mmdat [\w-]+ |'
    r'(benchmarks|docs|tests|tools)/[\w/]+\.(py|sh) (?!-)).+'
)
HERE = 'tests/docs/test_commands.py::test_commands_run'
# Test -> how the commands begin that it runs. Of several, marks among them, the longest decides.
RUN_BY = {
    HERE: r'(export|make help|mmdat train|benchmarks/data_checks\.py) |'
    r'tools/((train|test|predict|check_data|visualize)\.py |analysis_tools/|model_converters/)',
    'tests/docs/test_your_data.py::test_commands_run_and_configs_say_what_the_page_says': (
        r'tools/(new_config|(train|test|check_data)\.py my_(parts|streets|pets))\.py '
    ),
    'tests/tools/test_make_shapes.py::test_it_draws_the_layout_of_a_task': (
        r'tools/make_shapes\.py '
    ),
    'tests/tools/test_predict.py::test_the_command_of_readme_predicts': (
        r"tools/predict\.py CONFIG CHECKPOINT photos/ 'more/"
    ),
    'tests/deployment/test_pages.py::test_the_command_of_readme_checks_a_file_of_pytorch': (
        r'tools/deployment/export\.py '
    ),
    'tests/deployment/test_pages.py::test_the_benchmark_of_the_page_evaluates': (
        r'benchmarks/exported_precision\.py '
    ),
    'tests/ops/test_build.py::test_a_library_is_built_for_its_sources_alone': (
        r"python -c 'from mmdat\.ops\.build"
    ),
    'tests/apis/test_distributed.py::test_the_weights_are_those_of_one_process': (
        r'tools/dist_train\.sh '
    ),
    'tests/tools/test_tools.py::test_slurm_is_asked_for_gpus': r'tools/slurm_train\.sh ',
    'tests/test_wheel.py::test_pip_installs_it_beside_what_is_there': r'pip install path/to/mmdat ',
    'tests/test_wheel.py::test_mim_does_what_the_page_says': r'mim ',
}
# What stands for words and parts of the commands that run here, and flags that make them quick.
WORDS = {
    'CONFIG': 'my_config.py',
    'CHECKPOINT': 'work_dirs/my_config/epoch_1.pth',
    'RESULTS': 'work_dirs/my_config/results.pkl',
    'WORK_DIR': 'work_dirs/my_config',
    'DIR': 'browsed',
    'IMAGE': 'photos/0.png',
    'IN': 'published.pth',
    'FILE': 'published.pth',
    'OUT': 'converted.pth',
}
PARTS = {
    'my_parts': 'my_config',
    '/NAME.py': '/mask_rcnn_dat_pp_t_coco.py',
    'mask_rcnn_dat_pp_nano_shapes': 'mask_rcnn_dat_pp_t_coco',
    'epoch_12': 'epoch_1',
    'epoch_7': 'epoch_1',
    'data/shapes/val': 'photos',
    'mine': 'my_config',
    'other': 'mask_rcnn_dat_pp_t_coco',
    ' ...': '',
    '320,240 100,80': '32,24 10,8',
}
FEW = dict(get_flops='--shape 64', benchmark='--shape 64 --repeat-num 1 --num-warmup 0')


class Block(NamedTuple):
    """Commands that stand together, or one in the text.

    Attributes:
        marks: Beginnings of those that are not run; None of a command in the text.
        commands: Without variables and ``python``.
    """

    page: str
    marks: list[str] | None
    commands: list[str]


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for marks, lines in BLOCK.findall(text):
        lines = lines.replace('\\\n', '').splitlines()
        commands = [shlex.join(shlex.split(line, comments=True)) for line in lines]
        yield Block(page.name, marks_in(marks), [bare(line) for line in commands if line])
    for paragraph in FENCED.sub('', text).split('\n\n'):
        for span in re.findall(r'`([^`]+)`', paragraph):
            if INLINE.fullmatch(command := ' '.join(span.split())):
                yield Block(page.name, None, [bare(command)])


def marks_in(text: str) -> list[str]:
    return [begin for begins in MARK.findall(text) for begin in begins.split(', ')]


def bare(command: str) -> str:
    return re.sub(r'^(\w+=\S+ )*(\S*python (?=\w+/))?', '', command)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
MARKS = [mark for page in PAGES for mark in marks_in(page.read_text())]
COMMANDS = dict.fromkeys(command for block in BLOCKS for command in block.commands)


def decides(command: str, marks: list[str]) -> str:
    """The test that runs a command, or the mark of it, or ''."""
    patterns = RUN_BY | {mark: f'{re.escape(mark)} ' for mark in marks}
    found = {name: re.match(pattern, f'{command} ') for name, pattern in patterns.items()}
    ends = {name: match.end() for name, match in found.items() if match}
    return max(ends, key=lambda name: ends[name], default='')


def test_each_command_is_run_or_marked() -> None:
    deciding: set[str] = set()
    for page, marks, commands in BLOCKS:
        known = MARKS if marks is None else marks
        found = {command: decides(command, known) for command in commands}
        for command, by in found.items():
            assert by, f'{page}: no test runs `{command}`, and nothing says why'
        idle = {*(marks or ())} - {*found.values()}
        assert not idle, f'{page}: {idle} is run, or not in the block'
        deciding.update(found.values())
    assert deciding == {*RUN_BY, *MARKS}


def test_the_tests_that_run_commands_are_there() -> None:
    for test in RUN_BY:
        path, _, name = test.partition('::')
        assert f'def {name}(' in (ROOT / path).read_text()


class ParsedError(Exception):
    """A command line was taken."""


def test_the_tools_take_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    original = argparse.ArgumentParser.parse_args

    def parse(*arguments: Any) -> None:
        original(*arguments)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse)
    for command in [*COMMANDS, *of_make()]:
        if re.match(r'mmdat |tools/\S+\.py ', command):
            with pytest.raises(ParsedError):
                call(command, monkeypatch)


def of_make() -> list[str]:
    """Commands of tools that the targets that are named run."""
    targets = {command for command in COMMANDS if command.startswith('make ')}
    said = [
        subprocess.run(
            ['make', '-n', *target.split()[1:]],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.replace('\\\n', '')
        for target in sorted(targets)
    ]
    return re.findall(r'^\.venv/bin/python (tools/.+)$', '\n'.join(said), re.MULTILINE)


def call(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool, *arguments = shlex.split(command)
    if tool == 'make':
        subprocess.run([tool, *arguments], cwd=ROOT, check=True)
    elif tool == 'mmdat':
        monkeypatch.setattr(sys, 'argv', [tool, *arguments])
        mmdat_command()
    else:
        run_tool(monkeypatch, tool, *arguments)


def test_flags_and_extras_that_are_named_exist() -> None:
    tools = {*(ROOT / 'tools').rglob('*.py')} - {ROOT / 'tools/set_up.py'}
    sources = [ROOT / 'mmdat/commands.py', ROOT / 'mmdat/apis/cli.py', *tools]
    flags = {flag for path in sources for flag in re.findall(r"'(--[\w-]+)'", path.read_text())}
    extras = (ROOT / 'pyproject.toml').read_text().split('[project.optional-dependencies]')[1]
    for page in PAGES:
        for span in re.findall(r'`([^`]+)`', FENCED.sub('', page.read_text())):
            if span.startswith('--'):
                assert {*re.findall(r'--[\w-]+', span)} <= flags, f'{page.name}: {span}'
            for extra in re.findall(r'mmdat\[(\w+)\]', span):
                assert f'\n{extra} = [' in extras, f'{page.name}: {span}'


def test_commands_run(
    config: Path, coco_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('configs').mkdir()
    for path in ('my_config.py', 'configs/mask_rcnn_dat_pp_t_coco.py'):
        shutil.copy(config, path)
    Path('photos').symlink_to(coco_root / 'val2017')
    torch.save(classifier_checkpoint('dat_pp_nano'), 'published.pth')
    commands = [command for command in COMMANDS if decides(command, MARKS) == HERE]
    for command in sorted({nano(command) for command in commands}, key=order):
        if not command.startswith('export '):  # as the fixture does
            call(command, monkeypatch)
    for path in (
        'work_dirs/my_config/results.pkl',
        'work_dirs/my_config/report.html',
        'work_dirs/my_config/curves.png',
        'both.png',
        'predictions/predictions.json',
        'predictions/pictures/0.png',
        'attention/points/0.png.png',
        'browsed',
        'converted.pth',
    ):
        assert Path(path).exists(), path
    assert list(Path('work_dirs/my_config').rglob('events.out.tfevents.*'))


def nano(command: str) -> str:
    for part, other in PARTS.items():
        command = command.replace(part, other)
    words = [WORDS.get(word, word) for word in shlex.split(command)]
    return shlex.join(words + FEW.get(Path(words[0]).stem, '').split())


def order(command: str) -> tuple[int, str]:
    """Trainings come first, one that goes on after them, then tests, then the rest."""
    steps = ('train', '--resume', 'tools/test.py')
    return max((i for i, step in enumerate(steps) if step in command), default=len(steps)), command
