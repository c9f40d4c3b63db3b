"""Set up `.venv` from `uv.lock`: what `make setup` runs, on any Python from 3.9 on.

uv does the work. This finds it, tells it what the machine has, and says what uv would not.
"""

import ctypes
import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Variables that lead to other packages. Those of uv that are kept are about the machine.
MISLEADING = re.compile(
    r'PYTHON(HOME|PATH)$|VIRTUAL_ENV$|PIP_(USER|TARGET|PREFIX)$|'
    r'UV_(?!CACHE|HTTP|LINK|NO_CACHE|NO_INSTALL_PROJECT|OFFLINE|PYTHON)'
)
ENVIRONMENT = {key: text for key, text in os.environ.items() if not MISLEADING.match(key)}
ENVIRONMENT['UV_LOCK_TIMEOUT'] = '7200'  # another clone may compile mmcv into the same cache
ENVIRONMENT.setdefault('UV_PYTHON', '>=3.10,<3.13')  # those of the lock
# Of what uv says, the lines for each package, but for downloads of 100 MB and more.
FOR_EACH = re.compile(r' [+~-] | Downloaded |Downloading \S+ \(([\d.]+[Ki]+B|\d\d?\.\dMiB)')
INSTALL = 'install it (Debian, Ubuntu: `apt install {}`)'
LOCK = ROOT / '.venv.lock'  # also holds where a set-up ended well, and for which GPUs


def main() -> None:
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    os.chdir(ROOT)
    with LOCK.open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print('Another `make setup` is at work here: waiting for it.', flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        sync(find_uv())


def find_uv() -> str:
    """Return a uv that is new enough, from PATH or else installed into `.uv`."""
    (wanted,) = re.findall("required-version = '>=(.+)'", Path('pyproject.toml').read_text('utf-8'))
    for uv in filter(None, map(shutil.which, ('uv', '.uv/bin/uv'))):
        answer = ask(uv, '--version').stdout
        if [*map(int, re.findall(r'\d+', answer)[:3])] >= [*map(int, wanted.split('.'))]:
            return uv
    print(f'Installing uv {wanted} into .uv', flush=True)
    run([sys.executable, '-Im', 'venv', '--clear', '.uv'])
    run(['.uv/bin/python', '-Im', 'pip', 'install', '--quiet', f'uv=={wanted}'])
    return '.uv/bin/uv'


def sync(uv: str) -> None:
    """Install what `.venv` lacks, once it is clear that the machine has what this takes."""
    folder, _, kept = LOCK.read_text().partition('\n')
    # uv sees neither that a package is half installed nor that scripts name a folder of before.
    if folder not in {'', str(ROOT)} and Path('.venv').exists():
        print('Making .venv anew: a set-up did not end, or was elsewhere.', flush=True)
        shutil.rmtree('.venv')
    gpus = gpu_architectures(kept)
    # uv keeps a compiled mmcv by its settings, so that no machine gets one made for other GPUs.
    target = [f'--config-settings-package=mmcv:cuda={gpus}'] if gpus else []
    command = [uv, 'sync', '--locked', '--inexact']
    check = ask(*command, *target, '--check', '--verbose')
    if check.returncode == 0:
        return
    missing = re.findall('Identified uncached distribution: (.+)==', check.stderr)
    check_system(uv, missing)
    LOCK.write_text('unfinished')
    # Where Python keeps no bytecode, each start would compile what it imports, half of its time.
    bytecode = ['--compile-bytecode'] if ENVIRONMENT.get('PYTHONDONTWRITEBYTECODE') else []
    if gpus and 'mmcv' in missing:
        run([*command, '--group=nvcc', '--no-install-package=mmcv'])
        (home,) = ROOT.glob('.venv/lib/python*/site-packages/nvidia/cu13')
        run(['ln', '-sf', 'libcudart.so.13', f'{home}/lib/libcudart.so'])  # as linkers call it
        ENVIRONMENT.update(FORCE_CUDA='1', TORCH_CUDA_ARCH_LIST=gpus, CUDA_HOME=str(home))
    run([*command, *target, *bytecode])
    LOCK.write_text(f'{ROOT}\n{gpus}')


def run(command: list[str]) -> None:
    """Run a command, show most of what it says, and end in a sentence where it fails."""
    said = ''
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            if not FOR_EACH.match(line):
                print(line, end='', file=sys.stderr, flush=True)
            said += line
    if process.returncode and re.search('Killed signal|Cannot allocate memory|out of memory', said):
        sys.exit('The compiler ran out of memory: run it again with MAX_JOBS=1 in the environment.')
    if process.returncode:
        sys.exit('That failed, for the reason above: run it again once that is solved.')


def ask(*command: str, text: str = '') -> subprocess.CompletedProcess[str]:
    """Run a command on a text and keep what it says."""
    return subprocess.run(command, env=ENVIRONMENT, input=text, capture_output=True, text=True)


def gpu_architectures(kept: str) -> str:
    """Return the compute capabilities to compile mmcv for, such as '8.0;9.0', or '' for the CPU."""
    force, found = ENVIRONMENT.get('FORCE_CUDA'), []
    if force != '0' and ENVIRONMENT.get('CUDA_VISIBLE_DEVICES') not in {'', '-1'}:
        smi = ask('/bin/sh', '-c', 'nvidia-smi --query-gpu=compute_cap --format=csv,noheader')
        found = re.findall(r'^(?:7\.5|[89]\.\d|\d\d\.\d)$', smi.stdout, re.M)  # those of CUDA 13
    if not force and {*found} <= {*kept.split(';')}:  # compiled for these, and maybe for others
        return kept
    gpus = ENVIRONMENT.get('TORCH_CUDA_ARCH_LIST') or ';'.join(sorted({*found}, key=float))
    if force == '1' and not gpus:
        sys.exit('FORCE_CUDA=1 without a GPU needs TORCH_CUDA_ARCH_LIST too, such as "8.0;9.0".')
    return gpus if found or force == '1' else ''


def check_system(uv: str, missing: list[str]) -> None:
    """Refuse to begin where packages, of which uv's cache has all but the missing, cannot work."""
    try:
        list(map(ctypes.CDLL, ('libGL.so.1', 'libgthread-2.0.so.0')))
    except OSError as error:
        sys.exit(f'OpenCV lacks a library ({error}): {INSTALL.format("libgl1 libglib2.0-0")}.')
    if 'torch' in missing and shutil.disk_usage(ROOT).free < 7.5e9:
        sys.exit(f'The packages take 7.5 GB and the disk of {ROOT} has less: free some.')
    if 'mmcv' in missing:
        check_compiler(uv)
        jobs = int(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2e9)  # 2 GB each
        ENVIRONMENT.setdefault('MAX_JOBS', str(max(1, min(jobs, len(os.sched_getaffinity(0))))))
        print('mmcv will be compiled, which takes minutes.', flush=True)


def check_compiler(uv: str) -> None:
    """Compile a line of what mmcv is made of, before PyTorch is downloaded for it."""
    python = ask(uv, 'python', 'find', '--no-python-downloads').stdout.strip()
    source, include, compiler = '#include <optional>', '', ENVIRONMENT.get('CXX', 'c++')
    if python:  # otherwise uv fetches one, with headers
        code = 'import sysconfig; print(sysconfig.get_path("include"))'
        include = ask(python, '-Ic', code).stdout.strip()
        source += '\n#include <Python.h>'
    command = f'{compiler} -std=c++17 "-I{include}" -fsyntax-only -x c++ -'
    probe = ask('/bin/sh', '-c', command, text=source)
    if 'Python.h' in probe.stderr:
        remedy = INSTALL.format(f'{Path(include).name}-dev')
        sys.exit(f'{python} has no headers ({include}/Python.h) to compile mmcv with: {remedy}.')
    if probe.returncode:
        remedy = f'{INSTALL.format("g++")}, GCC 9 or newer, or name another in CXX'
        sys.exit(f'There is no compiler of C++17 ({compiler}) for mmcv: {remedy}.')


if __name__ == '__main__':
    try:
        main()
    except OSError as error:
        sys.exit(f'{error}: run it again once that is solved.')
    except KeyboardInterrupt:
        sys.exit('Interrupted: run it again and it goes on from here.')
