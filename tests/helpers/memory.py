"""Memory that tests measure."""

from collections.abc import Callable

import torch


def largest_allocation(run: Callable[[], object]) -> int:
    """Bytes of CPU memory that the operation takes which takes most while ``run`` is called."""
    with torch.profiler.profile(
        profile_memory=True, acc_events=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as profile:
        run()
    return max(event.self_cpu_memory_usage for event in profile.events())
