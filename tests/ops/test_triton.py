"""When Triton kernels can run; and the tests of kernels without a GPU, in processes of their own.

Triton reads whether to interpret when it is first imported, and a process has one driver of CUDA,
so that the functions `interpreted_*`, `compiled_*` and `launched_*` of :data:`FILES` are tests of
runs of pytest of their own.
"""

import importlib.metadata
import os
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.stub_cuda import NEEDS_COMPILER, build_stub
from helpers.triton_on_cpu import NEEDS_TRITON
from hypothesis import settings
from torch._subclasses import FakeTensorMode

from mmdat.ops import gpu
from mmdat.ops.gpu import why_no_kernels

FILES = sorted(map(str, Path(__file__).parent.glob('*/test_triton.py')))
WIDEST_HEAD = {torch.float32: 64}


@NEEDS_TRITON
@pytest.mark.parametrize('kind', ['interpreted', pytest.param('compiled', marks=pytest.mark.slow)])
def test_triton(kind: str, tmp_path: Path) -> None:
    run_functions(kind, 'not slow', tmp_path)


@pytest.mark.slow
@pytest.mark.hypothesis
@NEEDS_TRITON
@pytest.mark.parametrize('kind', ['interpreted', 'compiled'])
def test_triton_in_more_cases(kind: str, tmp_path: Path) -> None:
    run_functions(kind, 'slow', tmp_path)


@pytest.mark.slow
@NEEDS_TRITON
@NEEDS_COMPILER
def test_triton_launches(tmp_path: Path) -> None:
    run_functions('launched', 'slow', tmp_path, **build_stub(tmp_path))


def run_functions(kind: str, marked: str, cache: Path, **variables: str) -> None:
    """Run the functions of :data:`FILES` whose names begin so in another process."""
    environment = dict(
        os.environ,
        TRITON_INTERPRET=str(int(kind == 'interpreted')),
        TRITON_CACHE_DIR=str(cache),  # an empty one, so that kernels are compiled
        **variables,
    )
    options = [
        f'--override-ini=python_functions={kind}*',
        f'--hypothesis-profile={settings.get_current_profile_name()}',
    ]
    run = subprocess.run(
        [sys.executable, '-m', 'pytest', '-x', '-q', '-m', marked, *options, *FILES],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@NEEDS_TRITON
@pytest.mark.parametrize(
    'batch, changes, sentence',
    [
        (1, {}, None),
        (
            1,
            {'torch.cuda.get_device_capability': lambda device: (7, 5)},
            'the GPU has compute capability 7.5, below 8.0',
        ),
        (1, {'torch.version.hip': '6.4'}, 'the GPU is not one of NVIDIA'),
        (1, {'mmdat.ops.gpu.TRITON_VERSION': '3.5.1'}, 'Triton is 3.5.1, older than 3.6'),
        (1, {'mmdat.ops.gpu._launch_failure': lambda device: 'No gcc'}, 'No gcc'),
        (2**16, {}, 'there are more than 65535 samples times heads'),
    ],
)
def test_what_a_gpu_cannot_do_is_said(
    batch: int, changes: dict[str, Any], sentence: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (9, 0))
    monkeypatch.setattr(gpu, '_launch_failure', lambda device: None)
    for name, value in changes.items():
        monkeypatch.setattr(name, value)
    with FakeTensorMode(allow_non_fake_inputs=True):
        query = torch.empty(batch, 1, 2, 2, 8, device='cuda')
    assert why_no_kernels(query, query, query, 1, WIDEST_HEAD) == sentence


@NEEDS_TRITON
def test_a_failing_launch_is_tried_once_and_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = []

    def launch(device: torch.device) -> None:
        launches.append(device)
        raise RuntimeError('Failed to find C compiler.\nPlease specify')

    gpu._try_launch.cache_clear()
    monkeypatch.setattr(gpu, '_launch_nothing', launch)
    device = torch.device('cpu')
    with pytest.warns(UserWarning, match=r'gcc and python3-dev\): Failed to find C compiler\.$'):
        gpu._launch_failure(device)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert (gpu._launch_failure(device) or '').startswith('Triton cannot')
    assert len(launches) == 1
    compiled = torch.compile(
        lambda x: x + 1 if gpu._launch_failure(x.device) is None else x - 1,
        backend='eager',
        fullgraph=True,
    )
    assert compiled(torch.zeros(1)) == 1
    gpu._try_launch.cache_clear()


@NEEDS_TRITON
def test_float32_is_multiplied_as_pytorch_may() -> None:
    before = torch.get_float32_matmul_precision()
    found = {}
    for precision in ('highest', 'high', 'medium'):
        torch.set_float32_matmul_precision(precision)
        found[precision] = gpu.allows_tf32()
    torch.set_float32_matmul_precision(before)
    assert found == dict(highest=False, high=True, medium=True)


def test_nothing_is_supported_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, 'TRITON_VERSION', None)
    query = torch.zeros(1, 1, 2, 2, 8)
    assert why_no_kernels(query, query, query, 1, WIDEST_HEAD) == 'Triton is not installed'


def test_triton_of_nightly_builds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != 'pytorch-triton':
            raise PackageNotFoundError
        return '3.7.0+git1234'

    monkeypatch.setattr(importlib.metadata, 'version', version)
    assert gpu._installed_triton() == '3.7.0+git1234'
