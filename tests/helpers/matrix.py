#!/usr/bin/env python
"""Run tests with other versions of what mmdat stands on, each in an environment of its own.

``python tests/helpers/matrix.py [NAME ...]`` makes the environments in build/matrix with uv, one
after the other, runs what can run there, and writes the table of README.md with the date.
"""

import argparse
import datetime
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'build/matrix'
PAGE = ROOT / 'README.md'
RESULTS = ROOT / 'benchmarks/results/matrix.json'
TABLE = re.compile(r'(<!-- matrix -->\n).*?(<!-- end -->)', re.DOTALL)
TOOLS = ('pytest==9.2.0', 'hypothesis==6.168.5')
# What the backbones need beside PyTorch.
MMENGINE = (
    'mmengine==0.10.7',
    'mmcv-lite==2.1.0',
    'opencv-python-headless',
    'packaging',
    'pycocotools',
    'rich',
    'safetensors',
    'setuptools==80.9.0',  # whose pkg_resources mmengine imports
)
TOOLBOXES_OF = dict(mmdet='mmdet', mmseg='mmsegmentation', mmpretrain='mmpretrain')
LOCKED = ('--no-dev', '--group=test')
# The conftest needs mmengine. Without it hypothesis would draw more cases than elsewhere; Triton's
# kernels run in processes that load it.
OPERATORS = (
    '--noconftest',
    '-m',
    'not slow and not hypothesis',
    '--deselect=tests/ops/test_triton.py::test_triton',
    'tests/ops',
)
BACKBONES = ('tests/ops', 'tests/models/test_backbones.py', 'tests/models/test_layers.py')
TOOLBOXES = ('tests/models', 'tests/datasets', 'tests/apis', '--numprocesses=auto')


@dataclass(frozen=True)
class Environment:
    """Versions of packages, and the tests that can run with them.

    Attributes:
        python: Version of Python.
        packages: What uv installs; nothing for the packages of uv.lock.
        tests: Arguments of pytest.
        what: What the tests are of.
        sync: Arguments of ``uv sync``, which installs the packages of uv.lock.
    """

    python: str
    packages: tuple[str, ...]
    tests: tuple[str, ...]
    what: str
    sync: tuple[str, ...] = ()


def _alone(toolbox: str) -> Environment:
    others = {*TOOLBOXES_OF.values()} - {TOOLBOXES_OF[toolbox]}
    return Environment(
        '3.11',
        (),
        ('tests/test_one_toolbox.py', '-m', ''),
        f'commands with {toolbox} alone',
        (
            *LOCKED,
            '--extra=openmmlab',
            *(f'--no-install-package={package}' for package in sorted(others)),
        ),
    )


ENVIRONMENTS = {
    'torch': Environment('3.12', ('torch==2.11.0', 'numpy'), OPERATORS, 'operators'),
    **{toolbox: _alone(toolbox) for toolbox in TOOLBOXES_OF},
    'oldest': Environment(
        '3.10', ('torch==2.4.1', 'numpy<2', *MMENGINE), BACKBONES, 'operators, backbones'
    ),
    'newest': Environment('3.13', ('torch', *MMENGINE), BACKBONES, 'operators, backbones'),
    'onedl': Environment(
        '3.11', (), TOOLBOXES, 'what uses the toolboxes', (*LOCKED, '--extra=onedl')
    ),
    'python3.10': Environment('3.10', (), ('--numprocesses=auto',), 'all'),
    'python3.11': Environment('3.11', (), ('--numprocesses=auto',), 'all'),
    'python3.12': Environment('3.12', (), ('--numprocesses=auto',), 'all'),
}
KEPT = re.compile(r'numpy|torch|(onedl-)?mm(cv|cv-lite|det|detection|engine|pretrain|segmentation)')
# What the table has of it.
SHOWN = re.compile(r'torch|(onedl-)?mm(det|detection|pretrain|segmentation)')


def main() -> None:
    """Make the environments, run the tests, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', metavar='NAME', help=', '.join(ENVIRONMENTS))
    names = parser.parse_args().names or [*ENVIRONMENTS]
    if unknown := {*names} - {*ENVIRONMENTS}:
        parser.error(f'there is no {", ".join(unknown)}: give of {", ".join(ENVIRONMENTS)}')
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names:
        rows[name] = try_environment(ENVIRONMENTS[name], FOLDER / name)
        RESULTS.write_text(json.dumps(rows, indent=1) + '\n')
        PAGE.write_text(TABLE.sub(rf'\g<1>{table(rows)}\n\g<2>', PAGE.read_text()))
        shutil.rmtree(FOLDER / name)  # gigabytes, which uv keeps in its cache
    print(table(rows))


def try_environment(environment: Environment, folder: Path) -> dict[str, str]:
    """Make an environment and run its tests; return a row of the table."""
    python = f'{folder}/bin/python'
    print(f'Python {environment.python}: {environment.packages or "uv.lock"}', flush=True)
    subprocess.run(
        ['uv', 'venv', '--quiet', '--clear', f'--python={environment.python}', folder], check=True
    )
    if environment.packages:
        install = ['uv', 'pip', 'install', '--quiet', f'--python={python}']
        subprocess.run([*install, *environment.packages, *TOOLS], check=True)
        subprocess.run([*install, '--no-deps', '--editable', ROOT], check=True)
    else:
        sync = ['env', f'UV_PROJECT_ENVIRONMENT={folder}', 'uv', 'sync', '--locked']
        sync += [f'--python={environment.python}', *environment.sync]
        subprocess.run(sync, cwd=ROOT, check=True)
    run = ['env', 'OMP_NUM_THREADS=1']  # as the conftest sets
    run += [python, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *environment.tests]
    tests = subprocess.run(run, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(tests.stdout, flush=True)
    listed = subprocess.run(
        ['uv', 'pip', 'list', '--format=json', f'--python={python}'],
        capture_output=True,
        check=True,
        text=True,
    )
    return dict(
        what=environment.what,
        python=environment.python,
        packages=', '.join(
            f'{package["name"]} {package["version"]}'
            for package in json.loads(listed.stdout)
            if KEPT.fullmatch(package['name'])
        ),
        # Counts of pytest's last line, without its time.
        result=tests.stdout.strip().splitlines()[-1].strip('= ').partition(' in ')[0],
        date=datetime.date.today().isoformat(),
    )


def table(rows: dict[str, dict[str, str]]) -> str:
    """Lay the rows out in Markdown."""
    lines = ['| Python | with | tests of | result | date |', '|---|---|---|---|---|']
    for row in rows.values():
        packages = (package.split() for package in row['packages'].split(', '))
        shown = ', '.join(' '.join(package) for package in packages if SHOWN.fullmatch(package[0]))
        result = ', '.join(re.findall(r'\d+ (?:passed|failed|errors?|skipped)', row['result']))
        lines.append(f'| {row["python"]} | {shown} | {row["what"]} | {result} | {row["date"]} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
