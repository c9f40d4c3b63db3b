"""tools/set_up.py, with programs made for the test in place of uv, compilers and GPUs."""

import ast
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHECKOUT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((CHECKOUT / 'pyproject.toml').read_text())
SCRIPT = 'tools/set_up.py'
UV = """
echo "$@" >> calls
case "$1 $*" in
    --version*) echo "uv $FAKE_VERSION" ;;
    python*) echo "$FAKE_PYTHON" ;;
    *--check*) printf "$FAKE_MISSING" >&2; [ -e .venv/installed ] ;;
    sync*)
        env > variables; mkdir -p .venv/lib/python3.11/site-packages/nvidia/cu13/lib
        printf "$FAKE_SAID" >&2; ${FAKE_DO:-touch .venv/installed} ;;
esac
"""
UNCACHED = 'DEBUG Identified uncached distribution: {}\\n'
EVERYTHING = UNCACHED.format('mmcv==2.1.0') + UNCACHED.format('torch==2.11.0')


class Machine(SimpleNamespace):
    """A checkout of the script and the pins, and the programs that it finds."""

    root: Path
    programs: Path

    def add(self, name: str, *lines: str) -> Path:
        """Put a shell script on PATH, or to a place in the checkout where the name has a folder."""
        path = self.root / name if '/' in name else self.programs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('\n'.join(['#!/bin/sh', *lines]))
        path.chmod(0o755)
        return path

    def load(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location('set_up', self.root / SCRIPT)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, SCRIPT],
            cwd=self.root,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            # Shells let what they run in the background ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def syncs(self) -> list[str]:
        """Arguments of the calls of uv that installed something."""
        lines = (self.root / 'calls').read_text().splitlines()
        return [line for line in lines if line.startswith('sync') and '--check' not in line]

    def variables(self) -> dict[str, str]:
        """Environment of the last call of uv that installed something."""
        lines = (self.root / 'variables').read_text().splitlines()
        return dict(line.split('=', 1) for line in lines if '=' in line)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(root=tmp_path / 'checkout', programs=tmp_path / 'bin')
    for name in (SCRIPT, 'pyproject.toml'):
        (machine.root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, machine.root / name)
    machine.add('uv', UV)
    machine.add('c++', 'cat > source.cpp')
    for name in ('cat', 'env', 'ln', 'mkdir', 'sleep', 'touch'):
        (machine.programs / name).symlink_to(shutil.which(name) or '')
    for name in (
        *('CXX', 'MAX_JOBS', 'FORCE_CUDA', 'TORCH_CUDA_ARCH_LIST', 'CUDA_VISIBLE_DEVICES'),
        'PYTHONDONTWRITEBYTECODE',
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('PATH', str(machine.programs))
    monkeypatch.setattr(sys, 'argv', [SCRIPT])
    monkeypatch.setenv('FAKE_VERSION', '99.0.0 (x86_64-unknown-linux-gnu)')
    monkeypatch.setenv('FAKE_PYTHON', sys.executable)
    monkeypatch.setenv('FAKE_MISSING', EVERYTHING)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=8e9))
    monkeypatch.chdir(machine.root)
    return machine


def sentence(run: Callable[[], None]) -> str:
    """What a run that fails ends with."""
    with pytest.raises(SystemExit) as error:
        run()
    check_sentence(error.value.code)
    return error.value.code


def check_sentence(text: object) -> None:
    assert isinstance(text, str)
    assert re.fullmatch(r'\S.*\.', text), text


def test_script_parses_on_python_3_9() -> None:
    ast.parse((CHECKOUT / SCRIPT).read_text(), feature_version=(3, 9))


def test_what_is_installed_stays_and_says_nothing(machine: Machine, capfd) -> None:
    machine.load().main()
    assert machine.syncs() == ['sync --locked --inexact']
    capfd.readouterr()
    machine.load().main()
    assert len(machine.syncs()) == 1
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('keeps_none, flag', [('1', ' --compile-bytecode'), ('', '')])
def test_sources_are_compiled_once_where_python_keeps_no_bytecode(
    keeps_none: str, flag: str, machine: Machine, monkeypatch
) -> None:
    monkeypatch.setenv('PYTHONDONTWRITEBYTECODE', keeps_none)
    machine.load().main()
    assert machine.syncs() == [f'sync --locked --inexact{flag}']


def test_set_up_tells_of_long_steps_not_of_each_package(machine, monkeypatch, capfd) -> None:
    each = [
        'Downloading ruff (10.2MiB)',
        'Downloading mmdet (2.1MiB)',
        ' Downloaded torch',
        ' + torch==2.11.0',
        ' - numpy==2.0.0',
        ' ~ mmdat==1.0 (from file:///mmdat)',
    ]
    long = [
        'Downloading torch (506.0MiB)',
        'Downloading torch (2.3GiB)',
        '   Building mmcv==2.1.0',
        'Installed 164 packages in 2.61s',
    ]
    monkeypatch.setenv('FAKE_SAID', '\\n'.join([*each, *long, *each, '']))
    machine.load().main()
    assert capfd.readouterr().err.splitlines() == long


def test_venv_that_was_moved_is_made_anew(machine: Machine) -> None:
    machine.load().main()
    (machine.root / '.venv/leftover').touch()
    machine.root = machine.root.rename(machine.root.with_name('moved'))
    machine.load().main()
    assert not (machine.root / '.venv/leftover').exists()
    assert len(machine.syncs()) == 2


def test_venv_that_was_cut_off_is_made_anew(machine: Machine, monkeypatch) -> None:
    monkeypatch.setenv('FAKE_DO', 'exec sleep 60')
    monkeypatch.setenv('FAKE_SAID', 'Installing\\n')
    process = machine.start()
    assert process.stderr is not None
    assert process.stderr.readline() == 'Installing\n'
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)
    (machine.root / '.venv/leftover').touch()
    monkeypatch.delenv('FAKE_DO')
    machine.load().main()
    assert not (machine.root / '.venv/leftover').exists()


def test_venv_that_something_else_made_is_kept(machine: Machine) -> None:
    (machine.root / '.venv').mkdir()
    (machine.root / '.venv/own').touch()
    machine.load().main()
    assert (machine.root / '.venv/own').exists()


def test_question_for_help_installs_nothing(machine: Machine, monkeypatch) -> None:
    monkeypatch.setattr(sys, 'argv', [SCRIPT, '--help'])
    with pytest.raises(SystemExit, match='what `make setup` runs'):
        machine.load().main()
    assert not (machine.root / 'calls').exists()


def test_set_up_that_failed_is_done_again(machine: Machine, monkeypatch) -> None:
    monkeypatch.setenv('FAKE_DO', 'false')
    sentence(machine.load().main)
    monkeypatch.delenv('FAKE_DO')
    machine.load().main()
    machine.load().main()
    assert len(machine.syncs()) == 2


# What is told to uv -------------------------------------------------------------------------------


def test_variables_that_lead_to_other_packages_are_left_out(machine: Machine, monkeypatch) -> None:
    misleading = [
        'VIRTUAL_ENV',
        'PYTHONPATH',
        'PYTHONHOME',
        'PIP_TARGET',
        'UV_FROZEN',
        'UV_PROJECT_ENVIRONMENT',
        'UV_DEFAULT_INDEX',
        'UV_NO_BINARY',
        'UV_EXCLUDE_NEWER',
    ]
    kept = [
        'UV_CACHE_DIR',
        'UV_PYTHON',
        'UV_LINK_MODE',
        'UV_HTTP_TIMEOUT',
        'SSL_CERT_FILE',
        'UV_NO_INSTALL_PROJECT',
    ]
    for name in misleading + kept:
        monkeypatch.setenv(name, '1')
    machine.load().main()
    assert machine.variables().keys() & {*misleading, *kept} == {*kept}


def test_compilers_are_no_more_than_cores_and_memory_allow(machine: Machine, monkeypatch) -> None:
    def jobs(cores: int, gigabytes: float) -> str:
        monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: range(cores))
        monkeypatch.setattr(os, 'sysconf', {'SC_PHYS_PAGES': gigabytes, 'SC_PAGE_SIZE': 1e9}.get)
        shutil.rmtree('.venv', ignore_errors=True)
        machine.load().main()
        return machine.variables()['MAX_JOBS']

    assert [jobs(64, 32), jobs(2, 24), jobs(8, 1)] == ['16', '2', '1']
    monkeypatch.setenv('MAX_JOBS', '3')
    assert jobs(64, 32) == '3'


def test_compiler_is_not_needed_where_mmcv_is_in_the_cache(machine: Machine, monkeypatch) -> None:
    monkeypatch.setenv('FAKE_MISSING', UNCACHED.format('torch==2.11.0'))
    (machine.programs / 'c++').unlink()
    machine.load().main()
    assert machine.syncs()


@pytest.mark.parametrize(
    ('gpus', 'variables', 'expected'),
    [
        ('9.0\n8.6\n9.0', {}, '8.6;9.0'),
        ('12.0\n9.0', {}, '9.0;12.0'),
        ('9.0', {'TORCH_CUDA_ARCH_LIST': '8.0;9.0+PTX'}, '8.0;9.0+PTX'),
        ('', {'FORCE_CUDA': '1', 'TORCH_CUDA_ARCH_LIST': '8.0'}, '8.0'),
        ('9.0', {'FORCE_CUDA': '0'}, ''),
        ('9.0', {'CUDA_VISIBLE_DEVICES': ''}, ''),
        ('9.0', {'CUDA_VISIBLE_DEVICES': '0'}, '9.0'),
        ('7.0', {}, ''),
        ('', {'TORCH_CUDA_ARCH_LIST': '8.0'}, ''),
        ('No devices were found', {}, ''),
    ],
)
def test_mmcv_is_compiled_for_the_gpus_here(
    machine: Machine, monkeypatch, gpus: str, variables: dict[str, str], expected: str
) -> None:
    machine.add('nvidia-smi', f"echo '{gpus}'")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    machine.load().main()
    last = f' --config-settings-package=mmcv:cuda={expected}' if expected else ''
    assert machine.syncs()[-1] == f'sync --locked --inexact{last}'
    assert ('--group=nvcc --no-install-package=mmcv' in machine.syncs()[0]) == bool(expected)
    found = machine.variables()
    assert (found.get('FORCE_CUDA') == '1') == bool(expected)
    if expected:
        assert found['TORCH_CUDA_ARCH_LIST'] == expected
        library = Path(found['CUDA_HOME'], 'lib/libcudart.so')
        assert library.readlink() == Path('libcudart.so.13')


def test_mmcv_for_more_gpus_than_are_here_stays(machine: Machine, monkeypatch) -> None:
    def compiled_for(gpus: str) -> str:
        machine.add('nvidia-smi', f"echo '{gpus}'")
        machine.load().main()
        check = (machine.root / 'calls').read_text().splitlines()[-1]
        return check.partition('mmcv:cuda=')[2].split(' ')[0]

    assert compiled_for('8.0\n9.0') == '8.0;9.0'
    assert compiled_for('9.0') == '8.0;9.0'
    assert compiled_for('') == '8.0;9.0'
    (machine.root / '.venv/installed').unlink()
    assert compiled_for('8.6') == '8.6'
    monkeypatch.setenv('FORCE_CUDA', '0')
    assert compiled_for('8.6') == ''


def test_nvcc_is_not_installed_where_mmcv_is_in_the_cache(machine: Machine, monkeypatch) -> None:
    machine.add('nvidia-smi', 'echo 9.0')
    monkeypatch.setenv('FAKE_MISSING', UNCACHED.format('torch==2.11.0'))
    machine.load().main()
    assert machine.syncs() == ['sync --locked --inexact --config-settings-package=mmcv:cuda=9.0']


# Where uv comes from ------------------------------------------------------------------------------


@pytest.mark.parametrize('found', ['echo uv 0.5.10', 'echo "pyenv: not found" >&2; exit 127'])
def test_uv_that_is_missing_or_old_is_installed_once(machine: Machine, monkeypatch, found) -> None:
    own = machine.add('uv', UV).rename(machine.root / 'real-uv')
    machine.add('uv', found)
    pip = f'echo "$@" >> installed; ln -s {own} .uv/bin/uv'
    python = machine.add('python', 'mkdir -p .uv/bin; ln -s "$0.own" .uv/bin/python')
    machine.add('python.own', pip)
    monkeypatch.setattr(sys, 'executable', str(python))
    machine.load().main()
    machine.load().main()
    pinned = PYPROJECT['tool']['uv']['required-version']
    installed = (machine.root / 'installed').read_text().splitlines()
    assert len(installed) == 1
    assert installed[0].endswith(f'install --quiet uv=={pinned.removeprefix(">=")}')


def test_uv_that_cannot_be_installed_is_a_sentence(machine: Machine, monkeypatch, capfd) -> None:
    (machine.programs / 'uv').unlink()
    python = machine.add('python', 'echo "ensurepip is not available" >&2; exit 1')
    monkeypatch.setattr(sys, 'executable', str(python))
    assert 'for the reason above' in sentence(machine.load().main)
    assert 'ensurepip' in capfd.readouterr().err


@pytest.mark.parametrize('python', [None, 'exit 127', 'case "$2" in *3,\\ 9*) exit 1 ;; esac'])
def test_python_that_is_missing_broken_or_old_is_a_sentence(machine: Machine, python) -> None:
    make = shutil.which('make', path=os.defpath)
    if make is None:
        pytest.skip('there is no make')
    if python:
        machine.add('python3', python)
    result = subprocess.run([make, '-C', CHECKOUT, 'setup'], capture_output=True, text=True)
    assert result.returncode
    lines = [line for line in result.stderr.splitlines() if not line.startswith('make')]
    assert len(lines) == 1
    check_sentence(lines[0])
    assert 'python3' in lines[0]


# Sentences ----------------------------------------------------------------------------------------


def test_missing_library_is_named_before_downloads(machine: Machine, monkeypatch) -> None:
    module = machine.load()

    def cannot_load(name: str) -> None:
        raise OSError(f'{name}: cannot open shared object file')

    monkeypatch.setattr(module.ctypes, 'CDLL', cannot_load)
    assert re.search(r'libGL\.so\.1: .*apt install libgl1', sentence(module.main))
    assert not machine.syncs()


def test_disk_is_large_enough_before_torch_is_downloaded(machine: Machine, monkeypatch) -> None:
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=3e9))
    assert '7.5 GB' in sentence(machine.load().main)
    monkeypatch.setenv('FAKE_MISSING', UNCACHED.format('mmcv==2.1.0'))
    machine.load().main()


@pytest.mark.parametrize(
    ('compiler', 'expected'),
    [
        (None, r'no compiler of C\+\+17 \(c\+\+\).*apt install g\+\+'),
        ('echo "error: unrecognized option -std=c++17" >&2; exit 1', 'no compiler'),
        (
            'echo "fatal error: Python.h: No such file" >&2; exit 1',
            r'has no headers \(.*Python.h\).*apt install python3\.\d+-dev',
        ),
    ],
)
def test_unusable_compiler_is_a_sentence(machine: Machine, compiler, expected: str) -> None:
    (machine.programs / 'c++').unlink()
    if compiler:
        machine.add('c++', compiler)
    assert re.search(expected, sentence(machine.load().main))
    assert not machine.syncs()


def test_compiler_is_tried_with_what_mmcv_needs(machine: Machine, monkeypatch) -> None:
    machine.load().main()
    assert (machine.root / 'source.cpp').read_text().split('\n') == [
        '#include <optional>',
        '#include <Python.h>',
    ]
    monkeypatch.setenv('FAKE_PYTHON', '')  # uv will fetch one, headers and all
    shutil.rmtree('.venv')
    machine.load().main()
    assert (machine.root / 'source.cpp').read_text() == '#include <optional>'
    real = shutil.which('c++', path=os.defpath)
    if real is None:
        pytest.skip('there is no compiler')
    monkeypatch.setenv('PATH', f'{machine.programs}:{os.defpath}')
    monkeypatch.setenv('CXX', real)
    monkeypatch.setenv('FAKE_PYTHON', sys.executable)
    machine.load().check_compiler('uv')


@pytest.mark.parametrize(
    ('said', 'expected'),
    [
        ('c++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        ('virtual memory exhausted: Cannot allocate memory', 'MAX_JOBS=1'),
        ('error: Failed to fetch: dns error', 'for the reason above'),
    ],
)
def test_failure_of_uv_is_shown_and_ends_in_a_sentence(
    machine: Machine, monkeypatch, capfd, said: str, expected: str
) -> None:
    monkeypatch.setenv('FAKE_SAID', said)
    monkeypatch.setenv('FAKE_DO', 'false')
    assert expected in sentence(machine.load().main)
    assert said in capfd.readouterr().err


def test_cuda_without_gpu_is_told_for_which_ones(machine: Machine, monkeypatch) -> None:
    monkeypatch.setenv('FORCE_CUDA', '1')
    assert 'needs TORCH_CUDA_ARCH_LIST' in sentence(machine.load().main)


def test_checkout_that_cannot_be_written_is_a_sentence(machine: Machine) -> None:
    (machine.root / '.venv.lock').mkdir()
    process = machine.start()
    _, error = process.communicate()
    assert process.returncode == 1
    check_sentence(error.strip())
    assert '.venv.lock' in error


def test_interruption_is_a_sentence(machine: Machine, monkeypatch) -> None:
    monkeypatch.setenv('FAKE_SAID', 'Downloading torch\\n')
    monkeypatch.setenv('FAKE_DO', 'exec sleep 60')
    process = machine.start()
    assert process.stderr is not None
    assert process.stderr.readline() == 'Downloading torch\n'
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=20)
    check_sentence(error.strip())
    assert 'goes on from here' in error


def test_second_set_up_waits_for_the_first(machine: Machine) -> None:
    with open(machine.root / '.venv.lock', 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = machine.start()
        assert process.stdout is not None
        assert 'waiting' in process.stdout.readline()
        assert not (machine.root / 'calls').exists()
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert machine.syncs()


# Pins ---------------------------------------------------------------------------------------------


def test_mmcv_is_compiled_for_the_torch_of_the_lock() -> None:
    settings = PYPROJECT['tool']['uv']
    for mmcv in ('mmcv', 'onedl-mmcv'):
        needed = settings['extra-build-dependencies'][mmcv]
        assert {'requirement': 'torch', 'match-runtime': True} in needed
        # A GPU that the build sees would end up in a wheel that is kept as one for the CPU.
        assert settings['extra-build-variables'][mmcv]['CUDA_VISIBLE_DEVICES'] == ''


def test_lock_has_files_of_pypi_alone() -> None:
    urls = re.findall(r'https?://[^/"]+', (CHECKOUT / 'uv.lock').read_text())
    assert {*urls} == {'https://pypi.org', 'https://files.pythonhosted.org'}


def test_the_page_names_the_pinned_versions() -> None:
    extras = PYPROJECT['project']['optional-dependencies']
    pins = [pin for pin in extras['stack'] + extras['openmmlab'] if '==' in pin]
    pinned = dict(pin.partition(';')[0].split('==') for pin in pins if '< "3.11"' not in pin)
    page = (CHECKOUT / 'docs/start.md').read_text()
    rows = re.findall(r'^\| ([\w, -]+) \| ([\d., ]+) \|', page, re.M)
    named = {
        name: version
        for names, versions in rows
        for name, version in zip(names.split(', '), versions.split(', '), strict=True)
    }
    assert {'torch', 'mmcv', 'numpy'} <= named.keys()
    assert named == {name: pinned[name] for name in named}


def test_docker_copies_all_that_the_set_up_reads(tmp_path: Path) -> None:
    before, _, _ = (CHECKOUT / 'docker/Dockerfile').read_text().partition('make setup')
    copies = re.findall(r'^COPY --chown=mmdat (.+) (\S+)$', before, re.M)
    for names, folder in copies:
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in names.split():
            shutil.copy(CHECKOUT / name, tmp_path / folder)
    assert {path.name for path in tmp_path.rglob('*.*')} >= {'set_up.py', 'pyproject.toml'}
    uv = shutil.which('uv') or shutil.which(CHECKOUT / '.uv' / 'bin' / 'uv')
    if uv is None:
        pytest.skip('something else than `make setup` installed this')
    subprocess.run(
        [uv, 'sync', '--locked', '--no-install-project', '--dry-run', '--offline'],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )


def test_docker_has_the_targets_and_arguments_that_are_named() -> None:
    dockerfile, page, viewer = (
        (CHECKOUT / name).read_text()
        for name in ('docker/Dockerfile', 'docs/start.md', 'tools/view.py')
    )
    builds = re.findall(r'docker build (.+?) \.(?:\s|$)', dockerfile + page)
    stages = re.findall(r'^FROM \S+ AS (\S+)$', dockerfile, re.M)
    named = {name for build in builds for name in re.findall(r'--target (\S+)', build)}
    assert named == {*stages} - {'set-up', stages[-1]}
    arguments = {name for build in builds for name in re.findall(r'--build-arg (\w+)', build)}
    assert arguments <= {*re.findall(r'^ARG (\w+)', dockerfile, re.M)}
    options = re.findall(r'"(--\w+)=', dockerfile)
    assert options and all(f"'{option}'" in viewer for option in options)
