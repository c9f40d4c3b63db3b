"""Build the environment in `.venv`: the engine of `make setup`.

Standard library only. It parses on any Python from 3.6 on, so that an unsupported one is replaced
by a supported one from PATH or answered with a sentence.
"""

import collections
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, TextIO

SUPPORTED = ('3.11', '3.12', '3.10')  # in the order in which they are looked for
ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / 'requirements'
VENV = ROOT / '.venv'
PYTHON = VENV / 'bin' / 'python'
STATE = VENV / 'setup.json'
LOG = VENV / 'setup.log'
TEMPORARY = VENV / 'tmp'  # not in /tmp, which is often too small for PyTorch

DISK_FOR_ALL = 7.5  # GB, at the peak
DISK_FOR_PIP_CACHE = 3.0
DISK_AFTER_TORCH = 2.0
MEMORY_PER_COMPILER = 2.0  # GB, for a file that includes PyTorch's headers


class SetupError(Exception):
    """What went wrong and what to do about it, in one sentence."""


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not is_current():
            continue_on_supported_python()
            with lock(ROOT / '.venv.lock') as descriptor:
                if not is_current():  # another run may have finished meanwhile
                    Setup(descriptor).run()
    except SetupError as error:
        return fail(str(error))
    except OSError as error:
        return fail(explain_os_error(error))
    except KeyboardInterrupt:
        return fail('interrupted: run it again and it goes on from here.', 130)
    return 0


def fail(sentence: str, status: int = 1) -> int:
    print(f'make setup: {sentence}', file=sys.stderr)
    return status


# What is there ------------------------------------------------------------------------------------


def is_current() -> bool:
    """Tell whether `.venv` works and was built here, from these pins, to the end."""
    state = read_state()
    return state.get('done') == [step.name for step in STEPS] and state.get('key') == (
        environment_key(python_version(str(PYTHON), 'pip'))
    )


def read_state() -> Dict:
    try:
        state = json.loads(STATE.read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def environment_key(python: Optional[str]) -> str:
    """Hash all that an environment follows from."""
    digest = hashlib.sha256(repr((str(ROOT), python)).encode())
    for path in [*sorted(REQUIREMENTS.glob('*.txt')), ROOT / 'setup.py', Path(__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def python_version(executable: str, *modules: str) -> Optional[str]:
    """Return the `major.minor` of a Python, None if it does not run or lacks one of the modules.

    It is run and not only looked for: a pyenv shim on PATH may lead nowhere.
    """
    code = 'import {}; print("%d.%d" % sys.version_info[:2])'.format(', '.join(('sys', *modules)))
    try:
        output = subprocess.check_output([executable, '-I', '-c', code], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None
    return output.decode().strip()


def pin(package: str) -> str:
    """Return the version of a package that has one for every Python."""
    for path in REQUIREMENTS.glob('*.txt'):
        found = re.search(rf'^{package}==(\S+)$', path.read_text(), re.MULTILINE)
        if found:
            return found.group(1)
    raise AssertionError(package)


# What must be there -------------------------------------------------------------------------------


def continue_on_supported_python() -> None:
    """Start over on the Python of `.venv` or, if this one cannot build one, on one from PATH."""
    problem = problem_with_python(sys.executable)
    on_path = [shutil.which('python' + version) for version in SUPPORTED]
    for python in [str(PYTHON), sys.executable, *filter(None, on_path)]:
        if python == sys.executable and not problem:
            return
        if python != sys.executable and not problem_with_python(python):
            if problem:
                print(f'Setting up with {python}, since {problem.split(":")[0]}.', flush=True)
            os.execv(python, [python, *sys.argv])
    raise SetupError(problem)


def problem_with_python(executable: str) -> str:
    """Return the sentence about why this Python cannot build the environment, '' if it can."""
    version = python_version(executable)
    if version not in SUPPORTED:
        return (
            f'{executable} is Python {version} and mmdat runs on 3.10 to 3.12: install one of them '
            '(Debian, Ubuntu: `apt install python3.11-venv python3.11-dev`) and have it on PATH.'
        )
    if python_version(executable, 'ensurepip', 'venv') is None:
        return (
            f'{executable} cannot make virtual environments: install its venv module '
            f'(Debian, Ubuntu: `apt install python{version}-venv`).'
        )
    return ''


def check_disk() -> None:
    has_torch = any(VENV.glob('lib/*/site-packages/torch-{}*'.format(pin('torch'))))
    needed = DISK_AFTER_TORCH if has_torch else DISK_FOR_ALL
    if not has_torch and not os.environ.get('PIP_NO_CACHE_DIR'):
        needed += DISK_FOR_PIP_CACHE
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    if free < needed:
        raise SetupError(
            f'{VENV} needs {needed:.1f} GB and its disk has {free:.1f} GB left: '
            'free some space, or clone mmdat to a larger disk.'
        )


def check_libraries() -> None:
    """Load what OpenCV expects of the system, which is not on every server."""
    for library in ('libGL.so.1', 'libgthread-2.0.so.0'):
        try:
            ctypes.CDLL(library)
        except OSError:
            raise SetupError(
                f'OpenCV needs {library}, which this system lacks: install it '
                '(Debian, Ubuntu: `apt install libgl1 libglib2.0-0`).'
            ) from None


def check_compiler() -> None:
    """Compile a line of what mmcv is made of, before PyTorch is downloaded for it."""
    compiler = os.environ.get('CXX', 'c++')  # torch.utils.cpp_extension calls this one
    include = sysconfig.get_path('include')
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / 'probe.cpp'
        source.write_text('#include <optional>\n#include <Python.h>\nstd::optional<int> probe;\n')
        command = [*shlex.split(compiler), '-std=c++17', f'-I{include}', '-c', str(source)]
        try:
            result = subprocess.run(
                [*command, '-o', str(source.with_suffix('.o'))],
                stderr=subprocess.PIPE,
                universal_newlines=True,
            )
        except OSError:
            raise SetupError(
                f'there is no C++ compiler ({compiler}) to compile mmcv with: install one '
                '(Debian, Ubuntu: `apt install g++`) or name yours in CXX.'
            ) from None
    if 'Python.h' in result.stderr:
        raise SetupError(
            f'{sys.executable} has no headers ({include}/Python.h) to compile mmcv with: install '
            'them (Debian, Ubuntu: `apt install python{}.{}-dev`).'.format(*sys.version_info)
        )
    if result.returncode:
        error = next((line for line in result.stderr.splitlines() if 'error' in line), '').strip()
        raise SetupError(
            f'{compiler} does not compile C++17 ({error}): install GCC 9 or newer, or name another '
            'compiler in CXX.'
        )


# What went wrong ----------------------------------------------------------------------------------

NETWORK_ERROR = re.compile(
    r'NewConnectionError|Failed to establish a new connection|NameResolutionError|'
    r'Temporary failure in name resolution|Name or service not known|Network is unreachable|'
    r'ConnectTimeout|ReadTimeout|Connection (refused|reset|aborted|timed out)|'
    r'ProxyError|SSLError|CERTIFICATE_VERIFY_FAILED|Max retries exceeded|'
    r'Incomplete ?(Read|Download)'
)


def explain_failure(title: str, output: Iterable[str]) -> str:
    """Return the sentence for a command that failed from the last lines of its output."""
    lines = [line for line in output if line.strip()]
    text = '\n'.join(lines)
    if os.strerror(errno.ENOSPC) in text:
        return explain_os_error(OSError(errno.ENOSPC, ''))
    if NETWORK_ERROR.search(text):
        return (
            'the package index cannot be reached: check the network, and the index, proxy and '
            f'certificate in `pip config list`, and run it again (details in {LOG}).'
        )
    if re.search(r'\(from versions: none\)|ResolutionImpossible', text):  # all of it is pinned
        return (
            'the package index does not answer or lacks a package for this system (mmdat is tested '
            f'on x86-64 Linux with glibc): check `pip config list` (details in {LOG}).'
        )
    if re.search(r'Killed signal terminated|Cannot allocate memory|out of memory', text):
        return 'the compiler ran out of memory: run it again with MAX_JOBS=1 in the environment.'
    errors = [line.strip() for line in lines if re.match(r'\s*(error|fatal)\b', line, re.I)]
    reason = (errors or lines or ['no output'])[-1].strip()
    return f'{title} failed with "{reason}": run it again once that is solved (details in {LOG}).'


def explain_os_error(error: OSError) -> str:
    place = error.filename or ROOT
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f'{place} cannot be written: clone mmdat to a folder that you may write to.'
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f'the disk of {ROOT} is full: free some space and run it again.'
    return f'{error.strerror or error} ({place}): run it again once that is solved.'


# Doing it -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(path: Path) -> Iterator[int]:
    """Hold a lock file, waiting for whoever has it, and yield its descriptor."""
    with open(str(path), 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print('Another `make setup` is at work here: waiting for it.', flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


class Progress:
    """A line a step, rewritten on a terminal and followed up every 15 seconds elsewhere."""

    def __init__(self, steps: int, stream: TextIO):
        self.steps = steps
        self.stream = stream
        self.interval = 0.2 if stream.isatty() else 15.0
        self.number = 0
        self.title = self.detail = ''
        self.begun = self.shown = 0.0

    def start(self, title: str) -> None:
        self.number += 1
        self.title = title
        self.detail = ''
        self.begun = self.shown = time.monotonic()
        self.print(f'[{self.number}/{self.steps}] {self.title}', end='')
        if not self.stream.isatty():
            self.print('', end='\n')

    def update(self, detail: str = '') -> None:
        """Take note of what is being done, and show it when it is time to."""
        self.detail = detail or self.detail
        now = time.monotonic()
        if now - self.shown < self.interval:
            return
        self.shown = now
        if self.stream.isatty():
            line = f'[{self.number}/{self.steps}] {self.title}: {now - self.begun:.0f} s'
            line = f'{line}  {self.detail}'[: shutil.get_terminal_size().columns - 1]
            self.print('\r\033[K' + line, end='')
        else:
            self.print(f'      {now - self.begun:.0f} s  {self.detail}')

    def finish(self) -> None:
        seconds = f'{time.monotonic() - self.begun:.0f} s'
        if self.stream.isatty():
            self.print(f'\r\033[K[{self.number}/{self.steps}] {self.title}: {seconds}')
        else:
            self.print(f'      done in {seconds}')

    def print(self, text: str, end: str = '\n') -> None:
        print(text, end=end, file=self.stream, flush=True)


def activity(line: str, current: str) -> str:
    """Say in a few words what a line of pip's or ninja's reports, '' if it is not worth it."""
    compiled = re.match(r'\s*\[(\d+)/(\d+)\] ', line)
    if compiled:
        return 'compiled {} of {} files'.format(*compiled.groups())
    progress = re.match(r'Progress (\d+) of ([1-9]\d*)$', line)
    if progress:
        percent = 100 * int(progress.group(1)) // int(progress.group(2))
        return '{}, {}%'.format(current.split(',')[0], percent)
    download = re.match(r'\s*(?:Downloading|Using cached) (?:\S*/)?(\w+)-\S+ (\(.*\))', line)
    if download:
        return 'downloading {} {}'.format(*download.groups())
    if re.match(r'\s*(Preparing metadata|Building wheel)', line):
        return 'preparing to compile'
    if line.startswith('Installing collected packages'):
        return 'unpacking {} package(s)'.format(line.count(',') + 1)
    return ''


class Setup:
    """One run over the steps, of which those that are done are left out."""

    def __init__(self, lock_descriptor: int):
        self.lock_descriptor = lock_descriptor
        self.progress = Progress(1 + len(STEPS), sys.stdout)
        self.state: Dict = {}

    def run(self) -> None:
        begun = time.monotonic()
        usable = self.venv_is_usable()
        self.state = read_state() if usable else {}
        check_disk()
        check_libraries()
        if not (self.state.get('mmcv') or may_have_wheel()):
            check_compiler()
        try:
            self.progress.start('Virtual environment')
            if not usable:
                self.create_venv()
            self.remove_leftovers()
            TEMPORARY.mkdir()
            self.progress.finish()
            key = environment_key(python_version(str(PYTHON), 'pip'))
            if self.state.get('key') != key:
                self.state.update(key=key, done=[])
            for step in STEPS:
                self.progress.start(step.title)
                if step.name not in self.state['done']:
                    step.run(self)
                    self.save(done=[*self.state['done'], step.name])
                self.progress.finish()
        except BaseException:
            self.progress.print('')  # what follows does not belong on the step's line
            raise
        finally:
            shutil.rmtree(str(TEMPORARY), ignore_errors=True)
        print(f'{VENV} is ready after {time.monotonic() - begun:.0f} s.')

    def save(self, **changes: object) -> None:
        self.state.update(changes)
        replace_file(STATE, json.dumps(self.state, indent=2).encode())

    def venv_is_usable(self) -> bool:
        """Tell whether the steps can go on in the `.venv` that is there."""
        if python_version(str(PYTHON), 'pip') != '{}.{}'.format(*sys.version_info):
            return False
        # The scripts of an environment name its place: those of a moved one start the wrong Python.
        pip = VENV / 'bin' / 'pip'
        return pip.is_file() and str(VENV) in pip.read_text()

    def create_venv(self) -> None:
        # The Python that runs this may be of the very environment that is to be replaced.
        base = getattr(sys, '_base_executable', sys.executable)
        VENV.mkdir(exist_ok=True)
        command = [base, '-I', '-m', 'venv', '--clear', str(VENV)]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if result.returncode:
            raise SetupError(explain_failure('venv', result.stdout.decode().splitlines()))

    def remove_leftovers(self) -> None:
        """Remove what was left by a run that was killed, so that pip sees what is missing."""
        shutil.rmtree(str(TEMPORARY), ignore_errors=True)
        for site in VENV.glob('lib/*/site-packages'):
            half_uninstalled = list(site.glob('~*'))
            # pip writes INSTALLER when all other files of a package are in place.
            half_installed = [
                folder for folder in site.glob('*.dist-info') if not (folder / 'INSTALLER').exists()
            ]
            for path in half_uninstalled + half_installed:
                shutil.rmtree(str(path), ignore_errors=True)

    def pip(self, *arguments: str, **environment: str) -> None:
        self.call(
            [str(PYTHON), '-I', '-m', 'pip', *arguments],
            PIP_DISABLE_PIP_VERSION_CHECK='1',
            PIP_NO_INPUT='1',
            **environment,
        )

    def call(self, command: List[str], **environment: str) -> List[str]:
        """Run a command, its output into the log and its progress onto the screen.

        Return the last lines of the output.
        """
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=command_environment(environment),
            cwd=str(ROOT),
            start_new_session=True,  # to end its compilers with it
            pass_fds=[self.lock_descriptor],  # if this process is killed, the lock outlives it
        )
        assert process.stdout is not None
        last_lines: 'collections.deque[str]' = collections.deque(maxlen=200)
        rest = b''
        try:
            with open(str(LOG), 'a') as log:
                log.write('\n$ {}\n'.format(' '.join(command)))
                chunk = b'-'
                while chunk:
                    if not select.select([process.stdout], [], [], 0.5)[0]:
                        self.progress.update()
                        continue
                    chunk = os.read(process.stdout.fileno(), 65536)
                    *lines, rest = (rest + (chunk or b'\n')).split(b'\n')
                    for line in [line.decode(errors='replace') for line in lines]:
                        self.progress.update(activity(line, self.progress.detail))
                        if not line.startswith('Progress '):
                            last_lines.append(line)
                            log.write(line + '\n')
                    log.flush()
            if process.wait():
                raise SetupError(explain_failure(self.progress.title, last_lines))
            return [line for line in last_lines if line]
        finally:
            end(process)


def end(process: subprocess.Popen) -> None:
    """End a process with all that it started, if it still runs."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)


def command_environment(changes: Dict[str, str]) -> Dict[str, str]:
    """Return the variables of a command that is to see `.venv` and no other Python's packages."""
    misleading = ('PYTHONHOME', 'PYTHONPATH', 'PIP_USER', 'PIP_TARGET', 'PIP_PREFIX')
    return {
        **{name: value for name, value in os.environ.items() if name not in misleading},
        'PATH': os.pathsep.join([str(PYTHON.parent), os.environ.get('PATH', os.defpath)]),
        'PYTHONUNBUFFERED': '1',
        'TMPDIR': str(TEMPORARY),
        **changes,
    }


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that is seen whole or not at all."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    temporary.write_bytes(content)
    os.replace(str(temporary), str(path))


# The steps ----------------------------------------------------------------------------------------


def install_build_tools(setup: Setup) -> None:
    setup.pip('install', *requirements('build'))


def install_torch(setup: Setup) -> None:
    index = os.environ.get('TORCH_INDEX_URL')
    if index:  # it may lack the packages that torch needs: these come from the usual index
        setup.pip('install', *RAW, '--no-deps', '--index-url', index, *requirements('torch'))
    setup.pip('install', *RAW, *requirements('torch'))


def install_stack(setup: Setup) -> None:
    wheels_only = ('--only-binary', ':all:')
    setup.pip('install', *RAW, *wheels_only, *requirements('stack'), *requirements('dev'))


RAW = ('--progress-bar', 'raw')  # lines of numbers, for `activity`


def requirements(name: str) -> List[str]:
    return ['-r', f'requirements/{name}.txt', '-c', 'requirements/lock.txt']


def install_mmcv(setup: Setup) -> None:
    """Install mmcv with operators compiled for the torch that is installed.

    pip tells wheels apart by their source alone and hands out one that was compiled for another
    torch. Its cache, and wheels that somebody put on a link page, therefore stay out of this.
    """
    target = mmcv_target(setup)
    if setup.state.get('mmcv') == target.key:
        with contextlib.suppress(SetupError):
            run_operator(setup)
            return
    setup.save(mmcv=None)
    folder = wheel_folder()
    for wheel in folder.glob(f'{target.key}/*.whl') if folder else []:
        with contextlib.suppress(SetupError):
            install_wheel(setup, wheel)
            setup.save(mmcv=target.key)
            return
        wheel.unlink()
    wheel = compile_mmcv(setup, target)
    install_wheel(setup, wheel)
    setup.save(mmcv=target.key)
    if folder:
        with contextlib.suppress(OSError):  # a home that cannot be written costs time, no more
            (folder / target.key).mkdir(parents=True, exist_ok=True)
            replace_file(folder / target.key / wheel.name, wheel.read_bytes())


class Target(NamedTuple):
    """What mmcv is compiled for: what its wheel is kept under and what its set-up script reads."""

    key: str
    environment: Dict[str, str]


def mmcv_target(setup: Setup) -> Target:
    """Ask the torch in `.venv` what mmcv must be compiled for: the CPU, or also the GPUs."""
    code = (
        'import json, torch; from torch.utils.cpp_extension import CUDA_HOME; '
        'gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0); '
        'capabilities = {"%d.%d" % torch.cuda.get_device_capability(gpu) for gpu in gpus}; '
        'facts = [torch.__version__, torch.version.cuda, sorted(capabilities), CUDA_HOME]; '
        'print(json.dumps(facts))'
    )
    lines = setup.call([str(PYTHON), '-I', '-c', code])
    facts = next(line for line in lines if line.startswith('["'))  # others are warnings
    torch, cuda, capabilities, cuda_home = json.loads(facts)
    if not cuda or not (capabilities or os.environ.get('FORCE_CUDA') == '1'):
        return Target(wheel_key(torch, 'cpu'), {'FORCE_CUDA': '0'})
    architectures = os.environ.get('TORCH_CUDA_ARCH_LIST') or ';'.join(capabilities)
    if not architectures:
        raise SetupError(
            'FORCE_CUDA=1 without a GPU here needs to be told for which ones: set '
            'TORCH_CUDA_ARCH_LIST too, such as TORCH_CUDA_ARCH_LIST="8.0;9.0".'
        )
    environment = {'FORCE_CUDA': '1', 'TORCH_CUDA_ARCH_LIST': architectures}
    if cuda_home:
        environment['CUDA_HOME'] = cuda_home
    elif cuda != '13.0':
        raise SetupError(
            f'mmcv needs nvcc of CUDA {cuda} for this GPU: install that CUDA toolkit and set '
            'CUDA_HOME, or do without the GPU with CUDA_VISIBLE_DEVICES="".'
        )
    return Target(wheel_key(torch, 'cuda-' + architectures.replace(';', '-')), environment)


def wheel_key(torch: str, operators: str) -> str:
    """Name all that a compiled mmcv depends on.

    Args:
        torch: version with its local part, such as 2.11.0+cu130.
        operators: `cpu`, or `cuda` and the architectures.
    """
    python = sysconfig.get_config_var('SOABI')  # such as cpython-311-x86_64-linux-gnu
    libc = '-'.join(platform.libc_ver())
    return '_'.join(['mmcv-' + pin('mmcv'), python, libc, 'torch-' + torch, operators])


def wheel_folder() -> Optional[Path]:
    """Return where compiled wheels are kept, None where MMDAT_CACHE=off."""
    chosen = os.environ.get('MMDAT_CACHE')
    if chosen == 'off':
        return None
    user_cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return Path(chosen or os.path.join(user_cache, 'mmdat')) / 'wheels'


def may_have_wheel() -> bool:
    """Tell, before torch can be asked, whether mmcv may need no compiler."""
    folder = wheel_folder()
    return bool(folder and list(folder.glob(wheel_key(pin('torch') + '*', '*') + '/*.whl')))


def compile_mmcv(setup: Setup, target: Target) -> Path:
    flags = compile_flags()
    environment = {
        'MMCV_WITH_OPS': '1',
        'CFLAGS': flags + precompile_header(setup, flags),
        'MAX_JOBS': os.environ.get('MAX_JOBS') or str(compile_jobs()),
        **target.environment,
    }
    if 'cuda' in target.key and 'CUDA_HOME' not in environment:
        environment.update(install_nvcc(setup))
    fresh = ('--no-cache-dir', '--no-binary', 'mmcv', '--no-build-isolation', '--no-deps')
    folder = ('--wheel-dir', str(TEMPORARY))
    setup.pip('wheel', '--verbose', *fresh, *folder, '-r', 'requirements/mmcv.txt', **environment)
    (wheel,) = TEMPORARY.glob('mmcv-*.whl')
    return wheel


def install_nvcc(setup: Setup) -> Dict[str, str]:
    """Install nvcc beside the CUDA libraries that torch brought, and return how it is found."""
    setup.pip('install', *RAW, '--no-deps', '-r', 'requirements/cuda.txt')
    (home,) = VENV.glob('lib/*/site-packages/nvidia/cu13')
    # The linker asks for libcudart.so, and the packages only bring libcudart.so.13.
    links = TEMPORARY / 'lib'
    links.mkdir()
    (links / 'libcudart.so').symlink_to(home / 'lib' / 'libcudart.so.13')
    return {'CUDA_HOME': str(home), 'LIBRARY_PATH': str(links)}


def compile_flags() -> str:
    # Where CFLAGS is set, setuptools leaves out Python's own flags, and the optimization with them.
    flags = [sysconfig.get_config_var('CFLAGS') or '-O3 -DNDEBUG', os.environ.get('CFLAGS', '')]
    # Debug information would double the time and make the wheel sixty times as large.
    return ' '.join([*flags, '-g0'])


def precompile_header(setup: Setup, flags: str) -> str:
    """Compile PyTorch's header, four fifths of the work in most files, and return how to use it.

    GCC reads the header itself wherever the flags do not allow it to use the compiled one.
    """
    compiler = shlex.split(os.environ.get('CXX', 'c++'))
    if 'Free Software Foundation' not in ' '.join(setup.call([*compiler, '--version'])):
        return ''  # clang would give up instead of going on without
    header = TEMPORARY / 'precompiled.h'
    header.write_text('#include <torch/types.h>\n')
    (torch,) = VENV.glob('lib/*/site-packages/torch/include')
    folders = [str(torch), str(torch / 'torch/csrc/api/include'), sysconfig.get_path('include')]
    includes = [argument for folder in folders for argument in ('-isystem', folder)]
    options = [*shlex.split(flags), '-fPIC', '-std=c++17', *includes]
    setup.progress.update('compiling a header')
    with contextlib.suppress(SetupError):  # it only saves time
        setup.call([*compiler, *options, '-x', 'c++-header', str(header), '-o', f'{header}.gch'])
    return f' -include {shlex.quote(str(header))}'


def compile_jobs() -> int:
    """Return as many jobs as there are cores, or fewer if the memory is short."""
    memory = re.findall(r'MemAvailable: *(\d+) kB', read_text('/proc/meminfo'))
    limits = [int(kilobytes) * 1024 for kilobytes in memory]
    limits += map(int, re.findall(r'^\d+', read_text('/sys/fs/cgroup/memory.max')))  # a container
    jobs = [int(limit / 1e9 / MEMORY_PER_COMPILER) for limit in limits]
    return max(1, min([len(os.sched_getaffinity(0)), *jobs]))


def read_text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ''


def install_wheel(setup: Setup, wheel: Path) -> None:
    setup.pip('install', '--force-reinstall', '--no-deps', '--no-index', str(wheel))
    run_operator(setup)


def run_operator(setup: Setup) -> None:
    """Try mmcv: one that was compiled for another torch does not even load."""
    code = (
        'import torch; from mmcv.ops import nms; '
        'device = "cuda" if torch.cuda.is_available() else "cpu"; '
        'boxes = torch.tensor([[0., 0, 9, 9], [1, 1, 9, 9], [20, 20, 29, 29]], device=device); '
        'scores = torch.tensor([0.9, 0.8, 0.7], device=device); '
        'assert nms(boxes, scores, 0.5)[1].tolist() == [0, 2]'
    )
    setup.call([str(PYTHON), '-I', '-c', code])


def install_mmdat(setup: Setup) -> None:
    setup.pip('install', '--no-deps', '--no-build-isolation', '--no-index', '--editable', '.')
    setup.pip('check')


class Step(NamedTuple):
    name: str
    title: str
    run: Callable[[Setup], None]


STEPS = [
    Step('build', 'pip and build tools', install_build_tools),
    Step('torch', 'PyTorch', install_torch),
    Step('stack', 'OpenMMLab and the libraries around it', install_stack),
    Step('mmcv', 'mmcv (to compile it takes minutes)', install_mmcv),
    Step('mmdat', 'mmdat', install_mmdat),
]

if __name__ == '__main__':
    sys.exit(main())
