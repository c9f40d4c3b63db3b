"""Triton without a GPU: its interpreter mended, and its compiler without launches.

Triton reads whether to interpret when it is first imported, so that what needs either runs in a
process of its own.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from helpers.errors import relative_errors
from mmdat.ops.gpu import why_no_triton

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


@pytest.fixture
def hopper() -> None:
    """Let Triton compile for an H100."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Hopper:
        """All that is asked of a driver before a launch."""

        def get_current_target(self) -> GPUTarget:
            return GPUTarget('cuda', 90, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

    driver.set_active(Hopper())


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
