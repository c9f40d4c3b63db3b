"""Triton without a GPU: its interpreter mended, and its compiler without launches.

Triton reads whether to interpret when it is first imported, so that what needs either runs in a
process of its own.
"""

import contextlib
import functools
import importlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.errors import relative_errors
from mmdat.ops.gpu import why_no_triton

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
NEEDS_TRITON = pytest.mark.skipif(why_no_triton() is not None, reason=str(why_no_triton()))


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mend what the interpreter of Triton 3.6 cannot do."""
    if os.environ.get('TRITON_INTERPRET') != '1':
        return
    from triton.runtime import interpreter

    def patch(tensor: Any, scope: Any, original: Any = interpreter._patch_lang_tensor) -> None:
        original(tensor, scope)
        # NumPy 2.4 makes numbers of arrays without dimensions alone (triton-lang/triton#9171).
        scope.set_attr(tensor, '__index__', lambda self: int(self.handle.data.item()))

    def widen(x: Any) -> Any:
        if x.dtype.scalar != interpreter.tl.bfloat16:
            return x
        data = (x.data.astype('uint32') << 16).view('float32')
        return interpreter.TensorHandle(data, interpreter.tl.float32)

    def dot(
        self: Any,
        a: Any,
        b: Any,
        *args: Any,
        original: Any = interpreter.InterpreterBuilder.create_dot,
    ) -> Any:
        # It would multiply the bits of bfloat16 as integers.
        return original(self, widen(a), widen(b), *args)

    def maxnum(self: Any, a: Any, b: Any) -> Any:
        return self.binary_op(a, b, np.fmax)  # on a GPU, NaN is no maximum either

    monkeypatch.setattr(interpreter, '_patch_lang_tensor', patch)
    monkeypatch.setattr(interpreter.InterpreterBuilder, 'create_dot', dot)
    monkeypatch.setattr(interpreter.InterpreterBuilder, 'create_maxnumf', maxnum)


@pytest.fixture(params=[80, 90])
def capability(request: pytest.FixtureRequest) -> int:
    """Let Triton compile for an A100 and for an H100."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Driver:
        """All that is asked of a driver before a launch."""

        def get_current_target(self) -> GPUTarget:
            return GPUTarget('cuda', request.param, 32)

        def get_current_device(self) -> int:
            return request.param  # Triton keeps what it compiled by device

        def get_current_stream(self, device: int) -> int:
            return 0

    driver.set_active(Driver())
    return request.param


@contextlib.contextmanager
def record_kernels(compile: bool = True) -> Iterator[list[tuple[str, str]]]:
    """Record each kernel that is to be compiled: its name and what it is compiled for.

    Nothing is launched.
    """
    from triton.runtime.jit import JITFunction

    recorded: list[tuple[str, str]] = []

    def run(self: Any, *args: Any, original: Any = JITFunction.run, **options: Any) -> None:
        kernel = original(self, *args, **dict(options, warmup=True))
        assert not compile or kernel.asm['cubin']

    def do_compile(self: Any, key: str, *args: Any, original: Any = JITFunction._do_compile) -> Any:
        recorded.append((self.__name__, key))
        return original(self, key, *args) if compile else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, 'run', run)
        patch.setattr(JITFunction, '_do_compile', do_compile)
        yield recorded


def check_code(
    operator: str,
    attend: Callable[..., tuple[Tensor, Tensor]],
    dtype: torch.dtype,
    pairs: Callable[[dict[str, int]], int],
    bounds: dict[str, tuple[int, ...]],
) -> None:
    """Check that no kernel's code takes more than it may, at the stages of DAT-T++.

    Args:
        operator: Name in ``benchmarks/attention.py``, which has the shapes and strides.
        attend: The fused operator.
        dtype: Dtype of query, key and value.
        pairs: Gives the pairs of a query and a key that a program takes at a time, masked ones
            among them, from the options of a kernel.
        bounds: For each kernel, registers a thread, bytes spilled a thread, and for each loop, from
            the shortest, the instructions of a thread over its pairs. An inner loop counts once.
    """
    from triton.runtime.jit import JITFunction

    found: dict[str, list[float]] = {}

    def run(self: Any, *args: Any, original: Any = JITFunction.run, **options: Any) -> None:
        kernel = original(self, *args, **dict(options, warmup=True))
        registers, stack, loops = _read_code(kernel.asm['cubin'])
        threads = 32 * kernel.metadata.num_warps
        found[self.__name__] = [registers, stack, *(x * threads / pairs(options) for x in loops)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, 'run', run)
        for stage in range(4):
            inputs = inputs_at_stage(operator, stage, 2, dtype)
            out, _ = attend(*inputs)
            torch.autograd.grad(out, inputs, torch.empty_like(out))
            assert found.keys() == bounds.keys()
            for name, figures in found.items():
                assert len(figures) == len(bounds[name]), (stage, name, figures)
                within = [x <= bound for x, bound in zip(figures, bounds[name], strict=True)]
                assert all(within), (stage, name, figures, bounds[name])
            found.clear()


def inputs_at_stage(operator: str, stage: int, batch: int, dtype: torch.dtype) -> list[Tensor]:
    """Random inputs at a stage of DAT-T++, 800 x 1344, laid out as the backbone has them.

    Args:
        operator: Name in ``benchmarks/attention.py``, which has the shapes and strides.
        stage: The first is 0.
        batch: Images.
        dtype: Dtype of query, key and value.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        benchmark = importlib.import_module('attention')
    inputs = benchmark.OPERATORS[operator].tensors(benchmark.STAGES[stage], batch)
    inputs[:3] = [benchmark.convert(x, dtype, x.device) for x in inputs[:3]]
    return [x.requires_grad_() for x in inputs]


@functools.cache
def _read_code(cubin: bytes) -> tuple[int, int, list[int]]:
    """Registers, bytes of stack and the instructions of each loop, the shortest first."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        dump = subprocess.run(
            [knobs.nvidia.cuobjdump.path, '--dump-resource-usage', '--dump-sass', file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    (registers, stack), *_ = re.findall(r'REG:(\d+) STACK:(\d+)', dump)
    loops = []
    code = re.findall(r'/\*([0-9a-f]{4,})\*/ +(.+?) ;', dump)
    addresses = [int(address, 16) for address, _ in code]
    for end, (_, instruction) in enumerate(code):
        branch = re.search(r'\bBRA\b.* 0x([0-9a-f]+)', instruction)
        if branch and int(branch[1], 16) < addresses[end]:  # a loop jumps back to its beginning
            loops.append(end + 1 - addresses.index(int(branch[1], 16)))
    return int(registers), int(stack), sorted(loops)


def check_as_close_as_dense(
    results: Callable[[list[Tensor], bool], list[Tensor]], inputs: list[Tensor], tolerance: float
) -> None:
    """Check that kernels are about as close to the truth as the dense implementation.

    Args:
        results: Gives output and gradients for inputs, of the kernels or of the dense one.
        inputs: Of the operator.
        tolerance: Largest difference over largest magnitude.
    """
    truth = results([x.detach().double().requires_grad_() for x in inputs], False)
    found, dense = results([_amid_nan(x) for x in inputs], True), results(inputs, False)
    assert [x.dtype for x in found] == [x.dtype for x in dense]
    for error, dense_error in zip(
        relative_errors(found, truth), relative_errors(dense, truth), strict=True
    ):
        assert error <= max(tolerance, 3 * dense_error), (error, dense_error)


def _amid_nan(x: Tensor) -> Tensor:
    """Copy a tensor with its layout into memory that is NaN before and behind it."""
    storage = x.detach().as_strided((x.untyped_storage().nbytes() // x.itemsize,), (1,), 0)
    padding = 1024
    around = storage.new_full((len(storage) + 2 * padding,), float('nan'))
    around[padding:-padding] = storage
    copy = around.as_strided(x.shape, x.stride(), x.storage_offset() + padding)
    return copy.requires_grad_(x.requires_grad)
