"""Memory that tests measure, and memory that they take."""

import mmap
from collections.abc import Callable

import numpy as np
import torch


def largest_allocation(run: Callable[[], object]) -> int:
    """Bytes of CPU memory that the operation takes which takes most while ``run`` is called."""
    with torch.profiler.profile(
        profile_memory=True, acc_events=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as profile:
        run()
    return max(event.self_cpu_memory_usage for event in profile.events())


def touch_new_memory(size: int) -> np.ndarray:
    """Take so many bytes from the system, past the allocator, which may have freed ones left."""
    memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    memory[:] = 1
    return memory
