"""Memory that the process did not have before."""

import mmap

import numpy as np


def touch_new_memory(size: int) -> np.ndarray:
    """Take so many bytes from the system, past the allocator, which may have freed ones left."""
    memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    memory[:] = 1
    return memory
