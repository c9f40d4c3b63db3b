"""How the tools end when something is wrong, and what the scripts ask a scheduler for."""

import argparse
import errno
import io
import locale
import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.scripts import TOOLS, run_script

from mmdat.apis import command_line
from mmdat.apis.cli import add_run_arguments
from mmdat.errors import UserError


def test_a_tool_prints_the_sentence_without_traceback() -> None:
    result = subprocess.run(
        [sys.executable, TOOLS / 'train.py', 'missing.py'], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == 'error: config missing.py does not exist'
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize(
    'tool, arguments',
    [
        ('train.py', 'URL'),
        ('test.py', 'URL some.pth'),
        ('predict.py', 'URL some.pth image.png'),
        ('visualize.py', 'image.png URL some.pth'),
        ('view.py', 'URL some.pth'),
        ('check_data.py', 'URL'),
        ('new_config.py', 'URL data own.py'),
        ('deployment/export.py', 'URL some.pth model.onnx'),
        ('model_converters/check_published.py', 'URL some.pth'),
        ('model_converters/convert_published.py', 'some.pth new.pth --config URL'),
        ('analysis_tools/get_flops.py', 'URL'),
        ('analysis_tools/benchmark.py', 'URL'),
        ('analysis_tools/browse_dataset.py', 'URL'),
        ('analysis_tools/report.py', 'URL results.pkl'),
    ],
)
def test_no_tool_takes_a_config_from_the_web(
    tool: str, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    for name in ('image.png', 'data/image.png'):
        cv2.imwrite(name, np.zeros((8, 8, 3), np.uint8))
    torch.save({'stages.0.weight': torch.zeros(1)}, 'some.pth')
    url = 'https://host/config.py'
    monkeypatch.setattr(sys, 'argv', [tool, *arguments.replace('URL', url).split()])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOLS / tool), run_name='__main__')
    assert str(ended.value.code).startswith(f'error: config {url} is at a web address')


def test_a_tool_uses_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, 'execv', lambda program, arguments: started.append(arguments))
    monkeypatch.setattr(sys, 'orig_argv', ['python', '-u', 'tools/train.py', 'größe.py'])
    narrow = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', narrow)
    for encoding in ('utf-8', 'UTF-8', 'ISO-8859-1'):
        monkeypatch.setattr(locale, 'getpreferredencoding', lambda _, name=encoding: name)
        command_line(lambda: print('Größe'))
    if not sys.flags.utf8_mode:
        assert started == [[sys.executable, '-X', 'utf8', '-u', 'tools/train.py', 'größe.py']]
    narrow.flush()
    assert narrow.buffer.getvalue() == b'Gr\\xf6\\xdfe\n' * 3


@pytest.mark.parametrize(
    'error, said',
    [
        (MemoryError(), 'MemoryError'),
        (torch.cuda.OutOfMemoryError('CUDA out of memory. Tried 9 GiB.\nSee'), 'Tried 9 GiB.'),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 'DefaultCPUAllocator'),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), 'Cannot allocate'),  # no new process
    ],
)
def test_too_little_memory_is_a_sentence(error: Exception, said: str) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        command_line(main)
    sentence = str(ended.value.code)
    assert sentence.startswith('error: there is too little memory (') and said in sentence
    assert sentence.endswith('give smaller batches or images, or a smaller model')


@pytest.mark.parametrize('tool, package', [('train.py', 'mmcv'), ('make_shapes.py', 'matplotlib')])
def test_a_tool_names_a_missing_package_without_traceback(tool: str, package: str) -> None:
    script = f'import runpy, sys; sys.modules[{package!r}] = None; runpy.run_path(sys.argv[1])'
    result = subprocess.run(
        [sys.executable, '-c', script, TOOLS / tool], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f'error: mmdat needs {package} >= ')
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    'option, sentence',
    [
        ('foo', "takes KEY=VALUE, got 'foo'"),
        ('=3', "takes KEY=VALUE, got '=3'"),
        ('a=[1,2)', 'Imbalanced brackets'),
        (
            "a=[dict(type='X',end=3)]",
            r'takes no dict\(\.\.\.\), as in a=\[dict.* such as param_sch',
        ),
    ],
)
def test_an_option_that_is_no_key_and_value_is_refused(option: str, sentence: str) -> None:
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    with pytest.raises(UserError, match=f'--cfg-options:? {sentence}'):
        parser.parse_args(['--cfg-options', option])


@pytest.mark.parametrize(
    'script, arguments, command',
    [
        (
            'slurm_train.sh',
            ['part', 'job', 'a b.py', 'work', '--resume'],
            ['train.py', 'a b.py', '--launcher', 'slurm', '--work-dir', 'work', '--resume'],
        ),
        (
            'slurm_train.sh',
            ['part', 'job', 'a.py', '--resume'],
            ['train.py', 'a.py', '--launcher', 'slurm', '--resume'],
        ),
        (
            'slurm_test.sh',
            ['part', 'job', 'a.py', 'b.pth', '--out', 'c.pkl'],
            ['test.py', 'a.py', 'b.pth', '--launcher', 'slurm', '--out', 'c.pkl'],
        ),
    ],
)
def test_slurm_is_asked_for_gpus(
    script: str, arguments: list[str], command: list[str], tmp_path: Path
) -> None:
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$MASTER_PORT" "$@"\n')
    srun.chmod(0o755)
    result = run_script(
        script, *arguments, cwd=tmp_path, GPUS='4', PORT='12345', SRUN_ARGS='--time 1:00'
    )
    assert result.returncode == 0, result.stderr
    port, *given = result.stdout.splitlines()
    asked, run = given[: given.index('python')], given[given.index('python') + 2 :]
    assert port == '12345'
    assert asked == [
        '-p',
        'part',
        '--job-name=job',
        '--gres=gpu:4',
        '--ntasks=4',
        '--ntasks-per-node=4',
        '--cpus-per-task=5',
        '--kill-on-bad-exit=1',
        *(['--signal=USR1@120'] if script == 'slurm_train.sh' else []),
        '--time',
        '1:00',
    ]
    assert [Path(run[0]).name, *run[1:]] == command
    assert Path(run[0]).is_file()


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
@pytest.mark.parametrize(
    'variables, meeting',
    [
        ({}, ['--standalone', '--nnodes=1', '--local_addr=127.0.0.1']),
        (
            dict(PORT='12345'),
            ['--nnodes=1', '--node_rank=0', '--master_addr=127.0.0.1', '--master_port=12345'],
        ),
        (
            dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='first'),
            ['--nnodes=2', '--node_rank=1', '--master_addr=first', '--master_port=29500'],
        ),
    ],
)
def test_processes_meet_at_a_free_port_unless_it_is_given(
    script: str, variables: dict[str, str], meeting: list[str], tmp_path: Path
) -> None:
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    files = ['a b.py'] if script == 'dist_train.sh' else ['a b.py', 'b.pth']
    result = run_script(script, *files, '4', '--amp', cwd=tmp_path, **variables)
    given = result.stdout.splitlines()
    start = ['-m', 'torch.distributed.run', *meeting, '--nproc_per_node=4']
    assert given[: len(start)] == start
    assert given[len(start) + 1 :] == [*files, '--launcher', 'pytorch', '--amp']
    none = run_script(script, *files, '0', cwd=tmp_path, **variables)  # as nvidia-smi -L | wc -l
    assert none.returncode == 2 and 'GPUS is 0: without a GPU give a number' in none.stderr
    alone = run_script(script, *files, '4', cwd=tmp_path, **variables | dict(NODE_RANK='3'))
    if 'NNODES' not in variables:
        assert alone.returncode == 2 and 'NODE_RANK is 3, but NNODES is 1: give' in alone.stderr
    else:
        assert '--node_rank=3' in alone.stdout


@pytest.mark.parametrize(
    'flags, first, starts, status',
    [
        (['--resume', 'auto'], 138, 2, 0),
        (['--resume', 'auto'], 143, 1, 143),
        (['--resume'], 138, 1, 138),
    ],
)
def test_a_slurm_job_whose_time_is_up_goes_on_by_itself(
    flags: list[str], first: int, starts: int, status: int, tmp_path: Path
) -> None:
    srun = tmp_path / 'srun'
    srun.write_text(f'#!/bin/sh\necho >> starts\n[ $(wc -l < starts) -gt 1 ] || exit {first}\n')
    srun.chmod(0o755)
    result = run_script('slurm_train.sh', 'part', 'job', 'a.py', *flags, cwd=tmp_path)
    assert result.returncode == status
    assert len((tmp_path / 'starts').read_text().splitlines()) == starts


@pytest.mark.parametrize(
    'script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh']
)
def test_script_says_what_it_takes(script: str, tmp_path: Path) -> None:
    result = run_script(script, 'a.py', cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith('usage: ') and ' CONFIG ' in result.stderr
