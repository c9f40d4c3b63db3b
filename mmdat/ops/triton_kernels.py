"""The Triton kernel that tries whether kernels can be launched; :mod:`.gpu` imports it for that."""

import triton  # type: ignore[import-untyped]


@triton.jit
def nothing(unused: int) -> None:
    """Do nothing: a kernel to try a launch with."""
