"""Memory that tests measure, and memory that they take."""

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from packaging.version import Version


def largest_allocation(run: Callable[[], object]) -> int:
    """Bytes of CPU memory that the operation takes which takes most while ``run`` is called."""
    options: dict[str, Any] = dict(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    )
    if Version(torch.__version__) >= Version('2.6'):
        options['acc_events'] = True  # otherwise it warns that it forgets them at the end
    with torch.profiler.profile(**options) as profile:
        run()
    return max(event.self_cpu_memory_usage for event in profile.events())


def touch_new_memory(size: int) -> np.ndarray:
    """Take so many bytes from the system, past the allocator, which may have freed ones left."""
    memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    memory[:] = 1
    return memory
