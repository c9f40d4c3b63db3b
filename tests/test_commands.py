"""``mmdat NAME`` does what the tools of the same names do."""

import ast
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import mmdat
from mmdat.__main__ import main
from mmdat.commands import COMMANDS, run_command

ARGUMENTS = {
    'train': 'missing.py',
    'test': 'missing.py some.pth',
    'predict': 'missing.py some.pth image.png',
    'export': 'missing.py some.pth model.onnx',
    'visualize': 'image.png missing.py some.pth',
    'check-data': 'missing.py',
    'new-config': 'missing.py data own.py',
    'plot': 'missing',
    'report': 'missing.py results.pkl',
}
WRONG_VALUES = {
    'train': '--local_rank x',
    'test': '--launcher x',
    'predict': '--batch-size x',
    'export': '--check=x',
    'visualize': '--stage x',
    'check-data': '--num-images x',
    'new-config': '--zero x',
    'plot': '--out',
    'report': '--num-images x',
}


@pytest.mark.parametrize('name', COMMANDS)
def test_a_command_ends_with_the_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    for path in ('image.png', 'data/image.png'):
        cv2.imwrite(path, np.zeros((8, 8, 3), np.uint8))
    said = run(monkeypatch, name, *ARGUMENTS[name].split())
    assert said.startswith(
        'error: missing has no log' if name == 'plot' else 'error: config missing.py does not exist'
    )


@pytest.mark.parametrize('mistake', ['flag', 'argument', 'value', 'help'])
@pytest.mark.parametrize('name', COMMANDS)
def test_a_command_says_what_its_tool_says(
    name: str, mistake: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = dict(
        flag=f'{ARGUMENTS[name]} --wrong-flag',
        argument='',
        value=f'{ARGUMENTS[name]} {WRONG_VALUES[name]}',
        help='--help',
    )[mistake].split()
    status = run(monkeypatch, name, *arguments)
    said = capsys.readouterr()
    monkeypatch.setattr(sys, 'argv', [f'tools/{name}.py', *arguments])
    with pytest.raises(SystemExit) as ended:
        run_command(name)
    told = capsys.readouterr()
    assert status == str(ended.value.code) == ('0' if mistake == 'help' else '2')
    for own, tools in zip(said, told, strict=True):
        assert own.split() == tools.replace(f'{name}.py', f'mmdat {name}').split()
    assert (said.out if mistake == 'help' else said.err).startswith(f'usage: mmdat {name} ')


def test_a_wrong_flag_before_the_command_is_of_mmdat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, '--wrong-flag', 'train', 'x.py') == '2'
    assert capsys.readouterr().err.startswith('usage: mmdat [-h]')


def test_help_lists_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, '--help') == '0'
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert set(COMMANDS) <= listed


def test_sentences_name_the_commands_and_not_their_tools_which_a_clone_alone_has() -> None:
    names = '|'.join(COMMANDS).replace('-', '_')
    for path in Path(mmdat.__file__).parent.rglob('*.py'):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and id(node) not in docstrings:
                assert not re.search(rf'tools/(\w+/)?({names})\.py', str(node.value)), path


def test_the_version_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['mmdat', '--version'])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out == f'mmdat {mmdat.__version__}\n'


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmdat, 'commands')
    monkeypatch.setitem(sys.modules, 'mmdat.commands', None)
    assert run(monkeypatch, 'train', 'x.py').startswith('error: ')


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Run ``mmdat`` in this process; what it ends with."""
    monkeypatch.setattr(sys, 'argv', ['mmdat', *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return str(ended.value.code)
