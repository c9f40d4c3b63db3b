"""tools/setup_env.py: its decisions and sentences. Nothing is installed, no network is used."""

import ast
import errno
import fcntl
import importlib.util
import io
import os
import re
import shutil
import signal
import sys
import time
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).parent.parent
SOURCE = CHECKOUT / 'tools' / 'setup_env.py'


@pytest.fixture
def setup_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as it is in a checkout of its own, with the real pins."""
    root = tmp_path / 'checkout'
    for path in [SOURCE, CHECKOUT / 'setup.py', *(CHECKOUT / 'requirements').glob('*.txt')]:
        copy = root / path.relative_to(CHECKOUT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    for name in ('CXX', 'CFLAGS', 'MAX_JOBS', 'MMDAT_CACHE', 'PIP_NO_CACHE_DIR'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    spec = importlib.util.spec_from_file_location('setup_env', root / 'tools' / 'setup_env.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.VENV.mkdir()
    module.TEMPORARY.mkdir()
    return module


@pytest.fixture
def setup(setup_env: ModuleType):
    with setup_env.lock(setup_env.ROOT / '.venv.lock') as descriptor:
        setup = setup_env.Setup(descriptor)
        setup.progress = setup_env.Progress(1, io.StringIO())
        yield setup


def executable(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(['#!/bin/sh', *lines]))
    path.chmod(0o755)
    return path


def check_sentence(text: str) -> None:
    assert '\n' not in text
    assert text.endswith('.') or text.endswith(').'), text


# Python -------------------------------------------------------------------------------------------


def test_script_parses_on_python_3_6() -> None:
    ast.parse(SOURCE.read_text(), feature_version=(3, 6))


def test_this_python_can_set_up(setup_env) -> None:
    assert setup_env.problem_with_python(sys.executable) == ''


def test_unsupported_python_hands_over_to_a_supported_one(
    setup_env, tmp_path, monkeypatch, capfd
) -> None:
    monkeypatch.setattr(sys, 'executable', str(executable(tmp_path / 'python3', 'echo 3.13')))
    broken_shim = ['echo "pyenv: python3.11: command not found" >&2', 'exit 127']
    executable(tmp_path / 'bin' / 'python3.11', *broken_shim)
    works = executable(tmp_path / 'bin' / 'python3.12', 'echo 3.12')
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    started = []
    monkeypatch.setattr(os, 'execv', lambda path, arguments: started.append(path))
    with pytest.raises(setup_env.SetupError):  # only because execv returned
        setup_env.continue_on_supported_python()
    assert started[0] == str(works)
    assert 'Python 3.13' in capfd.readouterr().out


def test_environment_keeps_its_python(setup_env, monkeypatch) -> None:
    executable(setup_env.PYTHON, 'echo 3.12')
    started = []
    monkeypatch.setattr(os, 'execv', lambda path, arguments: started.append(path))
    setup_env.continue_on_supported_python()
    assert started == [str(setup_env.PYTHON)]


@pytest.mark.parametrize('version', ['3.13', '3.9', '3.6'])
def test_unsupported_python_alone_is_a_sentence(setup_env, tmp_path, monkeypatch, version) -> None:
    monkeypatch.setattr(sys, 'executable', str(executable(tmp_path / 'python3', f'echo {version}')))
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    with pytest.raises(setup_env.SetupError, match=f'is Python {version} ') as error:
        setup_env.continue_on_supported_python()
    check_sentence(str(error.value))


def test_python_without_ensurepip_is_told_which_package_is_missing(setup_env, tmp_path) -> None:
    debian = executable(
        tmp_path / 'python3', 'case "$*" in *ensurepip*) exit 1 ;; esac', 'echo 3.11'
    )
    sentence = setup_env.problem_with_python(str(debian))
    assert 'apt install python3.11-venv' in sentence
    check_sentence(sentence)


# The system ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which('c++'), reason='there is no compiler')
def test_compiler_is_checked_by_compiling(setup_env) -> None:
    setup_env.check_compiler()


@pytest.mark.parametrize(
    ('compiler', 'expected'),
    [
        (None, 'no C.. compiler .*apt install g'),
        ('echo "probe.cpp:2:10: fatal error: Python.h: No such file" >&2; exit 1', '-dev'),
        ('echo "c++: error: unrecognized option -std=c++17" >&2; exit 1', 'unrecognized option'),
    ],
)
def test_unusable_compiler_is_a_sentence(
    setup_env, tmp_path, monkeypatch, compiler, expected
) -> None:
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    if compiler:
        executable(tmp_path / 'bin' / 'c++', compiler)
    with pytest.raises(setup_env.SetupError, match=expected) as error:
        setup_env.check_compiler()
    check_sentence(str(error.value))


def test_missing_system_library_is_named_before_anything_is_downloaded(
    setup_env, monkeypatch
) -> None:
    def cannot_load(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(setup_env.ctypes, 'CDLL', cannot_load)
    with pytest.raises(setup_env.SetupError, match=r'libGL\.so\.1.*apt install libgl1') as error:
        setup_env.check_libraries()
    check_sentence(str(error.value))


def test_disk_need_depends_on_what_is_installed(setup_env, monkeypatch) -> None:
    usage = namedtuple('usage', 'free')
    monkeypatch.setattr(setup_env.shutil, 'disk_usage', lambda path: usage(3e9))
    with pytest.raises(setup_env.SetupError, match='needs 10.5 GB .* 3.0 GB left') as error:
        setup_env.check_disk()
    check_sentence(str(error.value))
    site = setup_env.VENV / 'lib' / 'python3.11' / 'site-packages'
    (site / 'torch-{}.dist-info'.format(setup_env.pin('torch'))).mkdir(parents=True)
    setup_env.check_disk()


def test_compilers_are_no_more_than_memory_allows(setup_env, monkeypatch) -> None:
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: range(64))
    memory = {'/proc/meminfo': 'MemTotal: 64000000 kB\nMemAvailable: 32000000 kB\n'}
    monkeypatch.setattr(setup_env, 'read_text', lambda path: memory.get(path, ''))
    assert setup_env.compile_jobs() == 16
    memory['/sys/fs/cgroup/memory.max'] = '5000000000\n'
    assert setup_env.compile_jobs() == 2
    memory['/sys/fs/cgroup/memory.max'] = 'max\n'
    assert setup_env.compile_jobs() == 16
    memory['/proc/meminfo'] = 'MemAvailable: 500000 kB\n'
    assert setup_env.compile_jobs() == 1


# Failures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('output', 'expected'),
    [
        (
            "WARNING: Retrying (Retry(total=0)) after 'NewConnectionError(...)'"
            '\nERROR: Could not find a version that satisfies the requirement torch',
            'index cannot be reached',
        ),
        (
            'ERROR: Could not find a version that satisfies x (from versions: none)',
            'does not answer or lacks a package',
        ),
        ('ERROR: [Errno 28] No space left on device', 'disk of .* is full'),
        ('c++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        (
            'x\nERROR: No matching distribution found for torch==2.11.0\nhint: none',
            'PyTorch failed with "ERROR: No matching distribution',
        ),
        ('Traceback\nImportError: undefined symbol', 'ImportError: undefined symbol'),
        ('', 'no output'),
    ],
)
def test_failed_command_becomes_a_sentence(setup_env, output, expected) -> None:
    sentence = setup_env.explain_failure('PyTorch', output.splitlines())
    assert re.search(expected, sentence), sentence
    check_sentence(sentence)


@pytest.mark.parametrize(
    ('code', 'expected'),
    [(errno.EROFS, 'may write to'), (errno.EACCES, 'may write to'), (errno.ENOSPC, 'free some')],
)
def test_unwritable_checkout_is_a_sentence(
    setup_env, monkeypatch, capsys, code: int, expected: str
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(setup_env, 'lock', refuse)
    assert setup_env.main() == 1
    message = capsys.readouterr().err
    assert expected in message
    check_sentence(message.strip())


def test_os_error_without_a_file_names_the_checkout(setup_env) -> None:
    for error in (PermissionError(errno.EACCES, 'Permission denied'), OSError('a reason')):
        sentence = setup_env.explain_os_error(error)
        assert str(setup_env.ROOT) in sentence
        assert 'None' not in sentence
        check_sentence(sentence)


def test_torch_that_does_not_import_is_a_sentence(setup_env, setup) -> None:
    executable(setup_env.PYTHON, 'echo "OSError: libcudart.so: no such file" >&2', 'exit 1')
    with pytest.raises(setup_env.SetupError, match='libcudart.so: no such file') as error:
        setup_env.install_mmcv(setup)
    check_sentence(str(error.value))


def test_target_is_found_among_warnings(setup_env, setup) -> None:
    facts = '["2.11.0+cpu", null, [], null]'
    executable(setup_env.PYTHON, 'echo "[W] one"', f"echo '{facts}'", 'echo another >&2')
    target = setup_env.mmcv_target(setup)
    assert target.key.endswith('torch-2.11.0+cpu_cpu')
    assert target.environment == {'FORCE_CUDA': '0'}


def test_compiler_that_does_not_tell_its_version_is_a_sentence(
    setup_env, setup, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv('CXX', str(executable(tmp_path / 'c++', 'echo "error: no license"; exit 1')))
    with pytest.raises(setup_env.SetupError, match='error: no license') as error:
        setup_env.precompile_header(setup, '')
    check_sentence(str(error.value))


def test_output_of_a_failed_command_is_logged(setup_env, setup) -> None:
    setup.progress.start('PyTorch')
    with pytest.raises(setup_env.SetupError, match='PyTorch failed with "ERROR: no such thing"'):
        setup.call(['sh', '-c', 'echo Progress 1 of 2; printf "ERROR: no such thing"; exit 3'])
    log = setup_env.LOG.read_text()
    assert 'ERROR: no such thing\n' in log
    assert '\nProgress' not in log


def test_interruption_ends_the_command_with_its_children(setup_env, setup, monkeypatch) -> None:
    seen = []

    def interrupt(line: str, current: str) -> str:
        seen.append(int(line))
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, 'activity', interrupt)
    with pytest.raises(KeyboardInterrupt):
        setup.call(['sh', '-c', 'sleep 60 & echo $!; wait'])
    for _ in range(100):
        if not is_alive(seen[0]):
            break
        time.sleep(0.05)
    assert not is_alive(seen[0])


def is_alive(pid: int) -> bool:
    try:
        return ') Z ' not in Path('/proc', str(pid), 'stat').read_text()  # Z: dead, not waited for
    except FileNotFoundError:
        return False


def test_sigterm_is_an_interruption(setup_env, monkeypatch, capsys) -> None:
    def terminate() -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr(setup_env, 'is_current', terminate)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert setup_env.main() == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert 'goes on from here' in capsys.readouterr().err


# What is kept, repaired and done again ------------------------------------------------------------


def test_key_changes_with_pins_place_and_python(setup_env, monkeypatch) -> None:
    keys = {setup_env.environment_key('3.11'), setup_env.environment_key('3.12')}
    pins = setup_env.REQUIREMENTS / 'stack.txt'
    pins.write_text(pins.read_text() + 'timm==1.0\n')
    keys.add(setup_env.environment_key('3.11'))
    moved = setup_env.ROOT.with_name('moved')
    moved.symlink_to(setup_env.ROOT)
    monkeypatch.setattr(setup_env, 'ROOT', moved)
    keys.add(setup_env.environment_key('3.11'))
    assert len(keys) == 4


@pytest.mark.parametrize('content', ['', '[]', '3', 'null', '{"done": '])
def test_damaged_state_is_as_none(setup_env, content: str) -> None:
    setup_env.STATE.write_text(content)
    assert setup_env.read_state() == {}
    assert not setup_env.is_current()


def test_second_run_takes_up_the_step_that_was_interrupted(setup_env, setup, monkeypatch) -> None:
    ran = []

    def step(name: str):
        def run(setup) -> None:
            ran.append(name)
            if ran == ['first', 'second']:
                raise KeyboardInterrupt

        return setup_env.Step(name, name, run)

    monkeypatch.setattr(setup_env, 'STEPS', [step('first'), step('second'), step('third')])
    monkeypatch.setattr(setup_env.Setup, 'venv_is_usable', lambda setup: True)
    monkeypatch.setattr(setup_env, 'python_version', lambda *arguments: '3.11')
    for check in ('check_disk', 'check_libraries', 'check_compiler'):
        monkeypatch.setattr(setup_env, check, lambda: None)
    with pytest.raises(KeyboardInterrupt):
        setup.run()
    assert not setup_env.is_current()
    setup_env.Setup(setup.lock_descriptor).run()
    assert ran == ['first', 'second', 'second', 'third']
    assert setup_env.is_current()
    monkeypatch.setattr(setup_env, 'python_version', lambda *arguments: None)
    assert not setup_env.is_current()  # the Python that `.venv` was made of is gone


def test_moved_environment_is_not_used(setup_env, setup, monkeypatch) -> None:
    here = '{}.{}'.format(*sys.version_info)
    monkeypatch.setattr(setup_env, 'python_version', lambda *arguments: here)
    pip = executable(setup_env.VENV / 'bin' / 'pip', f'exec {setup_env.VENV}/bin/python -m pip')
    assert setup.venv_is_usable()
    pip.write_text('#!/somewhere/else/.venv/bin/python\n')
    assert not setup.venv_is_usable()
    pip.unlink()
    assert not setup.venv_is_usable()


def test_half_installed_packages_are_removed_and_whole_ones_kept(setup_env, setup) -> None:
    site = setup_env.VENV / 'lib' / 'python3.11' / 'site-packages'
    for name in ('whole-1.0.dist-info', 'half-1.0.dist-info', '~orch'):
        (site / name).mkdir(parents=True)
    (site / 'whole-1.0.dist-info' / 'INSTALLER').touch()
    setup.remove_leftovers()
    assert [path.name for path in site.iterdir()] == ['whole-1.0.dist-info']
    assert not setup_env.TEMPORARY.exists()


def test_two_runs_exclude_each_other(setup_env, setup) -> None:
    with open(setup_env.ROOT / '.venv.lock') as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# mmcv ---------------------------------------------------------------------------------------------


@pytest.fixture
def mmcv(setup_env, setup, monkeypatch):
    """install_mmcv with a wheel as the text of a file, which works if it says so."""
    events = []
    installed = []

    def compile_mmcv(setup, target) -> Path:
        events.append('compiled')
        wheel = setup_env.TEMPORARY / 'mmcv-2.1.0.whl'
        wheel.write_text('works')
        return wheel

    def pip(setup, *arguments: str, **environment: str) -> None:
        installed[:] = [Path(arguments[-1]).read_text()]
        events.append('installed')

    def run_operator(setup) -> None:
        if installed != ['works']:
            raise setup_env.SetupError('undefined symbol')

    target = setup_env.Target('key-of-this-torch', {})
    monkeypatch.setattr(setup_env, 'mmcv_target', lambda setup: target)
    monkeypatch.setattr(setup_env, 'compile_mmcv', compile_mmcv)
    monkeypatch.setattr(setup_env, 'run_operator', run_operator)
    monkeypatch.setattr(setup_env.Setup, 'pip', pip)
    return namedtuple('Mmcv', 'events installed')(events, installed)


def kept_wheel(setup_env) -> Path:
    return setup_env.wheel_folder() / 'key-of-this-torch' / 'mmcv-2.1.0.whl'


def test_compiled_wheel_is_kept_and_serves_the_next_environment(setup_env, setup, mmcv) -> None:
    setup_env.install_mmcv(setup)
    assert kept_wheel(setup_env).read_text() == 'works'
    setup.state = {}
    mmcv.installed.clear()
    setup_env.install_mmcv(setup)
    assert mmcv.events == ['compiled', 'installed', 'installed']


def test_mmcv_that_works_is_left_alone(setup_env, setup, mmcv) -> None:
    setup_env.install_mmcv(setup)
    setup_env.install_mmcv(setup)
    assert mmcv.events == ['compiled', 'installed']
    setup.state['mmcv'] = 'key-of-another-torch'
    setup_env.install_mmcv(setup)
    assert mmcv.events == ['compiled', 'installed', 'installed']


def test_kept_wheel_that_does_not_work_is_compiled_anew(setup_env, setup, mmcv) -> None:
    kept_wheel(setup_env).parent.mkdir(parents=True)
    kept_wheel(setup_env).write_text('of another torch')
    setup_env.install_mmcv(setup)
    assert mmcv.events == ['installed', 'compiled', 'installed']
    assert kept_wheel(setup_env).read_text() == 'works'


@pytest.mark.parametrize('cache', ['off', '/dev/null/not-a-folder'])
def test_cache_that_is_off_or_unwritable_is_done_without(
    setup_env, setup, mmcv, monkeypatch, cache
) -> None:
    monkeypatch.setenv('MMDAT_CACHE', cache)
    setup_env.install_mmcv(setup)
    assert setup.state['mmcv'] == 'key-of-this-torch'


def test_wheels_of_different_builds_have_different_keys(setup_env, monkeypatch) -> None:
    builds = [('2.11.0+cu130', 'cpu'), ('2.11.0+cu130', 'cuda-9.0'), ('2.11.0+cpu', 'cpu')]
    keys = {setup_env.wheel_key(*build) for build in builds}
    soabi = 'cpython-312-aarch64-linux-gnu'
    monkeypatch.setattr(setup_env.sysconfig, 'get_config_var', lambda name: soabi)
    keys.add(setup_env.wheel_key(*builds[0]))
    assert len(keys) == 4


def test_mmcv_is_never_taken_from_pips_cache_or_links(setup_env, setup, monkeypatch) -> None:
    calls = []

    def pip(setup, *arguments: str, **environment: str) -> None:
        calls.append((arguments, environment))
        (setup_env.TEMPORARY / 'mmcv-2.1.0.whl').touch()

    monkeypatch.setattr(setup_env.Setup, 'pip', pip)
    monkeypatch.setattr(setup_env.sysconfig, 'get_config_var', lambda name: '-O3 -g')
    monkeypatch.setattr(setup_env, 'precompile_header', lambda setup, flags: '')
    setup_env.compile_mmcv(setup, setup_env.Target('key', {'FORCE_CUDA': '0'}))
    ((arguments, environment),) = calls
    command = ' '.join(arguments)
    assert '--no-cache-dir' in command
    assert '--no-binary mmcv' in command
    assert environment['CFLAGS'].split()[0] == '-O3'  # an unoptimized mmcv is several times slower
    assert environment['CFLAGS'].split()[-1] == '-g0'


# Progress and pins --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('  [12/77] c++ -MMD -MF x.o.d -c x.cpp', 'compiled 12 of 77 files'),
        ('  Downloading torch-2.11.0-cp311-linux.whl (530.6 MB)', 'downloading torch (530.6 MB)'),
        ('  Downloading https://a.b/c/mmcv-2.1.0.tar.gz (471 kB)', 'downloading mmcv (471 kB)'),
        ('Progress 5 of 20', 'before, 25%'),
        ('Progress 5 of 0', ''),
        ('Installing collected packages: mpmath, sympy, torch', 'unpacking 3 package(s)'),
        ('Requirement already satisfied: torch', ''),
    ],
)
def test_activity_is_read_from_the_output(setup_env, line: str, expected: str) -> None:
    assert setup_env.activity(line, 'before, 10%') == expected


def test_progress_is_a_line_from_time_to_time_without_a_terminal(setup_env, monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(setup_env.time, 'monotonic', lambda: clock[0])
    stream = io.StringIO()
    progress = setup_env.Progress(5, stream)
    progress.start('PyTorch')
    for clock[0] in range(1, 41):
        progress.update('downloading')
    progress.finish()
    assert stream.getvalue().splitlines() == [
        '[1/5] PyTorch',
        '      15 s  downloading',
        '      30 s  downloading',
        '      done in 40 s',
    ]


def test_lock_file_holds_every_pin() -> None:
    def pins(name: str) -> set[str]:
        lines = (CHECKOUT / 'requirements' / f'{name}.txt').read_text().splitlines()
        return {re.split(r' *;', line)[0] for line in lines if line and not line.startswith('#')}

    named = set().union(*(pins(name) for name in ('build', 'torch', 'stack', 'dev')))
    assert named <= pins('lock')
    assert not [pin for pin in pins('lock') if pin.startswith(('timm==', 'mmcv'))]
