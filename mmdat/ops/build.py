"""Build and load the kernels in C++: call :func:`build`, or run this file, once.

They are one library beside their sources, which needs no package, PyTorch included. Its name holds
what it is made of and for which processors, so that no other is ever loaded.
"""

import contextlib
import ctypes
import hashlib
import os
import shlex
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / 'csrc'
# Floating point stays as it is written, but that a product and a sum may be one instruction.
FLAGS = '-std=c++17 -O3 -shared -fPIC -fopenmp -fno-math-errno -fno-trapping-math -Wno-psabi'
# Instructions that a processor must have, as Linux names them; the faster ones are named first.
_AVX2 = 'avx2', 'fma'
_AVX512 = 'avx512f', 'avx512bw', 'avx512dq', 'avx512vl', *_AVX2
PROCESSORS = {
    # Processors with both multiply faster by AMX.
    'amx_bf16': ('amx_bf16', 'amx_tile', 'avx512_bf16', *_AVX512),
    'avx512_bf16': ('avx512_bf16', *_AVX512),
    'avx512': _AVX512,
    'avx2': _AVX2,
}


def build() -> Path:
    """Compile the kernels for this machine, unless that is done, and return the library.

    Raises:
        SystemExit: If that is not possible.
    """
    built_for, library = processor(), library_path()
    if built_for is None or library is None:
        raise SystemExit('The kernels in C++ need a processor with AVX2. All works without them.')
    if library.exists():
        return library
    compiler = shlex.split(os.environ.get('CXX', 'c++'))
    # GCC calls avx512_bf16 avx512bf16, but amx_bf16 amx-bf16.
    names = (name.replace('avx512_', 'avx512').replace('_', '-') for name in PROCESSORS[built_for])
    options = [f'-m{name}' for name in names]
    part = library.with_suffix(f'.{os.getpid()}')
    try:
        subprocess.run(
            [*compiler, *FLAGS.split(), *options, *SOURCES.glob('*.cpp'), '-o', part], check=True
        )
        part.replace(library)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f'The kernels in C++ cannot be built: {error}. All works without them.'
        ) from None
    return library


def load() -> ctypes.CDLL | None:
    """Load the library of this machine, or return None where it was not built."""
    library = library_path()
    if library is not None:
        with contextlib.suppress(OSError):  # also where it was linked to a later C library
            return ctypes.CDLL(str(library))
    return None


def library_path() -> Path | None:
    """Return the library of this machine, which may not exist; None if there can be none."""
    built_for = processor()
    if built_for is None:
        return None
    content = hashlib.sha256(repr((FLAGS, PROCESSORS)).encode())
    for source in sorted(SOURCES.glob('*.[ch]*')):
        content.update(source.read_bytes())
    return SOURCES / f'kernels-{built_for}-{content.hexdigest()[:16]}.so'


def processor() -> str | None:
    """Return which of :data:`PROCESSORS` this machine has, or None: what kernels are built for."""
    try:
        text = Path('/proc/cpuinfo').read_text()
    except OSError:
        return None
    _, _, flags = text.partition('\nflags')
    has = set(flags.partition('\n')[0].split())
    return next((name for name, needed in PROCESSORS.items() if has.issuperset(needed)), None)


if __name__ == '__main__':
    print(build())
