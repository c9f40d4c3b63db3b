"""The wheel holds what mim looks for, and asks for no version of any package."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import threading
import venv
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pytest
from helpers.imports import ROOT
from packaging.requirements import Requirement

from mmdat import __main__ as command
from mmdat.datasets import ShapesParameters, write_shapes_coco

LEFT_OUT = {'tools/set_up.py'}  # of a clone alone


@pytest.fixture(scope='module')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the clone that is built without leaving something in it."""
    folder = tmp_path_factory.mktemp('source')
    caches = shutil.ignore_patterns('__pycache__')
    for name in ('mmdat', 'configs', 'tools'):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=caches)
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope='module')
def wheel(source: Path) -> ZipFile:
    build = 'from setuptools.build_meta import build_wheel; build_wheel("dist")'
    subprocess.run([sys.executable, '-c', build], cwd=source, check=True, capture_output=True)
    (path,) = source.glob('dist/*.whl')
    return ZipFile(path)


def test_the_wheel_brings_configs_and_tools_where_mim_looks(wheel: ZipFile) -> None:
    sources = [
        path.relative_to(ROOT).as_posix()
        for folder in ('configs', 'tools')
        for path in (ROOT / folder).rglob('*.*')
        if path.suffix != '.pyc'
    ]
    brought = {name[len('mmdat/.mim/') :] for name in wheel.namelist() if '.mim/' in name}
    assert brought == {'model-index.yml', *sources} - LEFT_OUT
    for name in ('configs/_base_/models/mask_rcnn.py', 'tools/train.py', 'model-index.yml'):
        assert wheel.read(f'mmdat/.mim/{name}') == (ROOT / name).read_bytes()


def test_the_wheel_brings_the_license_its_types_and_the_report(wheel: ZipFile) -> None:
    names = wheel.namelist()
    assert {'mmdat/py.typed', 'mmdat/analysis/report.html'} <= set(names)
    (license_file,) = [name for name in names if name.endswith('LICENSE')]
    assert wheel.read(license_file) == (ROOT / 'LICENSE').read_bytes()


def test_installing_the_wheel_changes_no_version(wheel: ZipFile) -> None:
    (metadata,) = [name for name in wheel.namelist() if name.endswith('METADATA')]
    required = map(Requirement, message_from_bytes(wheel.read(metadata)).get_all('Requires-Dist'))
    always = [requirement for requirement in required if 'extra' not in str(requirement.marker)]
    assert always
    for requirement in always:
        assert not requirement.specifier, f'{requirement} may replace the version that is there'
        assert not requirement.name.startswith(('torch', 'mm', 'opencv'))


def test_the_wheel_installs_the_command(wheel: ZipFile) -> None:
    (entries,) = [name for name in wheel.namelist() if name.endswith('entry_points.txt')]
    assert wheel.read(entries).decode().split('\n')[:2] == [
        '[console_scripts]',
        f'mmdat = {command.__name__}:{command.main.__name__}',
    ]


class Environment(NamedTuple):
    """An environment into which mmdat was installed beside the packages of this one.

    Attributes:
        programs: Its folder ``bin``.
        changed: Names and versions of packages that came or went with it.
    """

    programs: Path
    changed: set[str]


def run(programs: Path, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of an environment, outside of the clone."""
    variables = {name: text for name, text in os.environ.items() if name != 'PYTHONPATH'}
    variables['PATH'] = f'{programs}:{variables["PATH"]}'
    tool, *arguments = shlex.split(command)
    return subprocess.run(
        [programs / tool, *arguments], cwd=folder, env=variables, capture_output=True, text=True
    )


def packages(programs: Path) -> set[str]:
    """Names and versions of an environment's packages other than mmdat."""
    listed = run(programs, 'python -m pip list --format=freeze', programs).stdout.splitlines()
    return {package for package in listed if not package.startswith('mmdat==')}


@pytest.fixture(scope='module')
def environment(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp('environment')
    venv.create(folder, symlinks=True)
    (site,) = folder.glob('lib/python*/site-packages')
    # The packages are found there, but not the clone, to which a path file of that folder leads.
    (site / 'present.pth').write_text(sysconfig.get_path('purelib'))
    programs = folder / 'bin'
    before = packages(programs)
    install = f'python -m pip install --no-index --no-build-isolation {source}'
    installed = run(programs, install, folder)
    assert installed.returncode == 0, installed.stderr
    assert before
    return Environment(programs, packages(programs) ^ before)


@pytest.mark.slow
def test_pip_installs_it_beside_what_is_there(environment: Environment, tmp_path: Path) -> None:
    assert environment.changed == set()
    write_shapes_coco(tmp_path / 'parts', ShapesParameters(train=2, val=2, size=64))
    (tmp_path / 'own.py').write_text("_base_ = 'mmdat::mask_rcnn_dat_pp_t_coco.py'")
    where = 'import mmdat; print(mmdat.__file__)'
    for line, said in {
        f"python -c '{where}'": f'{environment.programs.parent}/lib/',
        'mmdat --help': 'new-config',
        'mmdat new-config own.py parts my_parts.py': 'my_parts.py',
        'mmdat check-data my_parts.py': 'train',
    }.items():
        result = run(environment.programs, line, tmp_path)
        assert result.returncode == 0 and said in result.stdout, result.stdout + result.stderr


class Weights(BaseHTTPRequestHandler):
    """Answers each question with the same few bytes."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header('Content-Length', '7')
        self.end_headers()
        self.wfile.write(b'weights')


@pytest.mark.slow
def test_mim_does_what_the_page_says(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = environment.programs
    install = run(programs, 'python -m pip install openmim==0.3.9', tmp_path)
    if install.returncode:
        pytest.skip(f'openmim cannot be installed: {install.stderr.splitlines()[-1]}')
    write_shapes_coco(tmp_path / 'shapes', ShapesParameters(train=4, val=2, size=64))
    monkeypatch.setenv('SHAPES_ROOT', 'shapes')
    server = ThreadingHTTPServer(('127.0.0.1', 0), Weights)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    (cards,) = programs.parent.glob('lib/*/site-packages/mmdat/.mim/configs/metafile.yml')
    host = f'http://127.0.0.1:{server.server_port}'
    cards.write_text(cards.read_text().replace('https://cloud.tsinghua.edu.cn', host))
    page = (ROOT / 'docs/projects.md').read_text()
    lines = [' '.join(text.split()) for text in re.findall(r'`(mim [^`]+)`', page)]
    assert [line.split()[1] for line in lines] == [
        *('search', 'download', 'train', 'test', 'train', 'run')
    ]
    base = "__import__('mmdat').__name__ + '::mask_rcnn_dat_pp_nano_shapes.py'"
    (tmp_path / 'my_config.py').write_text(f'_base_ = {base}\n')
    few = ' --cfg-options train_cfg.max_epochs=1 train_cfg.val_interval=1'
    few += ' default_hooks.checkpoint.interval=1'
    for line in lines:
        for word, other in {
            'mask_rcnn_dat_pp_t_coco.py': 'mask_rcnn_dat_pp_nano_shapes.py',
            'CONFIG': 'mmdat::mask_rcnn_dat_pp_nano_shapes.py',
            'CHECKPOINT': 'work_dirs/mask_rcnn_dat_pp_nano_shapes/epoch_1.pth',
            'photos/': 'shapes/val/',
            'DIR': 'downloaded',
        }.items():
            line = line.replace(word, other)
        result = run(programs, line + few * ('train' in line), tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
        assert 'search' not in line or '43601796' in result.stdout, 'its parameters'
    server.shutdown()
    assert (tmp_path / 'downloaded/mask_rcnn_dat_pp_t_coco.pth').read_bytes() == b'weights'
    assert (tmp_path / 'downloaded/mask_rcnn_dat_pp_t_coco.py').exists()
    assert (tmp_path / 'predictions/predictions.json').exists()
