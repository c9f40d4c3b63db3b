"""Marks of tests that run kernels in C++."""

import pytest

from mmdat.ops.cpu import KERNELS

needs_kernels = pytest.mark.skipif(
    KERNELS is None, reason='the kernels in C++ are not built (mmdat.ops.build.build())'
)
