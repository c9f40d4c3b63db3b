"""The wheel holds what mim looks for, and asks for no version of any package."""

import shutil
import subprocess
import sys
from email import message_from_bytes
from zipfile import ZipFile

import pytest
from helpers.imports import ROOT
from packaging.requirements import Requirement

from mmdat import __main__ as command

LEFT_OUT = {'tools/set_up.py'}  # of a clone alone


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    folder = tmp_path_factory.mktemp('wheel')
    caches = shutil.ignore_patterns('__pycache__')
    for name in ('mmdat', 'configs', 'tools'):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=caches)
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, folder)
    build = 'from setuptools.build_meta import build_wheel; build_wheel("dist")'
    subprocess.run([sys.executable, '-c', build], cwd=folder, check=True, capture_output=True)
    (path,) = folder.glob('dist/*.whl')
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


def test_the_wheel_brings_the_license_and_its_types(wheel: ZipFile) -> None:
    names = wheel.namelist()
    assert 'mmdat/py.typed' in names
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
