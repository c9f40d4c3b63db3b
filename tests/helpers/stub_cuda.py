"""Launches by Triton's own launcher, with no GPU: on ``stub_cuda.c``, a driver that runs nothing.

They take a process of their own, in which that driver is the first ``libcuda.so.1`` that is found.
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

# The one that Triton takes.
COMPILER = os.environ.get('CC') or shutil.which('gcc') or shutil.which('clang')
NEEDS_COMPILER = pytest.mark.skipif(COMPILER is None, reason='there is no C compiler')
# Bytes that a program may have on compute capability 8.0.
MAX_SHARED = 163 * 1024
POINTERS = {
    torch.float32: '*fp32',
    torch.bfloat16: '*bf16',
    torch.int32: '*i32',
    torch.int64: '*i64',
}
NUMBERS = dict(i32='<i', i64='<q', fp32='<f')


class Stub(ctypes.Structure):
    """What ``stub_cuda.c`` keeps of the last launch."""

    _fields_ = (
        ('launches', ctypes.c_int),
        ('num_params', ctypes.c_int),
        ('grid', ctypes.c_uint * 3),
        ('block', ctypes.c_uint * 3),
        ('shared', ctypes.c_uint),
        ('kernel', ctypes.c_char * 64),
        ('params', ctypes.c_uint64 * 96),
    )


class Write(NamedTuple):
    """A tensor that a kernel writes, and what it is to find there, if that matters."""

    after: Tensor
    before: Tensor | None = None


def build_stub(folder: Path) -> dict[str, str]:
    """Compile the driver; return the variables with which another process finds it."""
    source = Path(__file__).with_suffix('.c')
    triton = importlib.util.find_spec('triton')
    assert triton is not None and triton.origin is not None
    headers = Path(triton.origin).parent / 'backends/nvidia/include'
    command = [COMPILER, '-shared', '-fPIC', f'-I{headers}', source, '-o', folder / 'libcuda.so.1']
    subprocess.run(list(map(str, command)), check=True)
    folders = os.pathsep.join([str(folder), os.environ.get('LD_LIBRARY_PATH', '')])
    return dict(TRITON_LIBCUDA_PATH=str(folder), LD_LIBRARY_PATH=folders.removesuffix(os.pathsep))


@contextlib.contextmanager
def expect_launches(**expected: tuple[tuple[int, ...], dict[str, Any]]) -> Iterator[None]:
    """Check that these kernels are launched in this order, each with its grid and its arguments.

    The memory of a tensor among the arguments must hold its values; a :class:`Write` is written,
    as the kernel would. What a kernel is compiled for is no argument, but in tuples.
    """
    launched: list[str] = []

    def check(kernel: str, grid: tuple[int, ...], arguments: dict[str, tuple[str, Any]]) -> None:
        launched.append(kernel)
        expected_grid, expected_arguments = expected[kernel]
        assert grid == expected_grid, kernel
        assert arguments.keys() == expected_arguments.keys(), kernel
        for name, value in expected_arguments.items():
            kind, found = arguments[name]
            if isinstance(value, Tensor | Write):
                write = value if isinstance(value, Write) else Write(value.detach(), value)
                assert kind == POINTERS[write.after.dtype], (kernel, name)
                memory = _memory(found, write.after)
                assert write.before is None or torch.equal(memory, write.before), (kernel, name)
                memory.copy_(write.after)
            else:
                assert found == value, (kernel, name)

    _driver().check = check
    yield
    assert launched == list(expected)


@functools.cache
def _driver() -> Any:
    """Let Triton launch with the stub, and call ``check`` of what is returned after each launch."""
    from triton.backends.nvidia.driver import CudaDriver, CudaLauncher
    from triton.runtime import driver

    stub = Stub.in_dll(ctypes.CDLL('libcuda.so.1'), 'stub')

    class Launcher(CudaLauncher):
        def __init__(self, source: Any, metadata: Any) -> None:
            super().__init__(source, metadata)
            self.source, self.threads = source, 32 * metadata.num_warps

        def __call__(self, *args: Any) -> None:
            kinds = self.source.signature
            stub.num_params = sum(kind != 'constexpr' for kind in _leaves(tuple(kinds.values())))
            launches = stub.launches
            super().__call__(*args)
            assert stub.launches == launches + 1
            assert tuple(stub.block) == (self.threads, 1, 1) == (128, 1, 1)
            assert stub.shared <= MAX_SHARED
            params, constants = iter(stub.params), iter(self.source.constants.values())
            arguments = {x: (kind, _read(kind, params, constants)) for x, kind in kinds.items()}
            arguments = {x: y for x, y in arguments.items() if y[0] != 'constexpr'}
            active.check(stub.kernel.decode(), tuple(stub.grid), arguments)

    active = CudaDriver()
    active.launcher_cls = Launcher
    active.get_current_device = lambda: 0
    active.get_current_stream = lambda device: 0
    active.get_device_capability = lambda device: (8, 0)
    driver.set_active(active)
    return active


def _leaves(kind: Any) -> list[str]:
    """Types of an argument's parameters."""
    return [x for part in kind for x in _leaves(part)] if isinstance(kind, tuple) else [kind]


def _read(kind: Any, params: Iterator[int], constants: Iterator[Any]) -> Any:
    """Read an argument of what is left of parameters, each of 8 bytes, and constants."""
    if isinstance(kind, tuple):
        return tuple(_read(part, params, constants) for part in kind)
    if kind == 'constexpr':
        return next(constants)
    return struct.unpack_from(NUMBERS.get(kind, '<Q'), next(params).to_bytes(8, 'little'))[0]


def _memory(pointer: int, like: Tensor) -> Tensor:
    """The tensor at an address, laid out like another."""
    last = sum((size - 1) * stride for size, stride in zip(like.shape, like.stride(), strict=True))
    storage = (ctypes.c_byte * ((last + 1) * like.itemsize)).from_address(pointer)
    return torch.frombuffer(storage, dtype=like.dtype).as_strided(like.shape, like.stride())
