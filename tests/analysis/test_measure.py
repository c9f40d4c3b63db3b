"""What is measured is what was run; how long anything takes is no test."""

import pytest
import torch
from helpers.memory import touch_new_memory

from mmdat.analysis.measure import (
    PeakMemory,
    Times,
    describe,
    machine_and_versions,
    time_side_by_side,
)

CPU = torch.device('cpu')
MEBIBYTE = 2**20


def test_the_peak_is_that_of_the_run_alone() -> None:
    touch_new_memory(128 * MEBIBYTE)  # freed before
    kept = touch_new_memory(32 * MEBIBYTE)
    memory = PeakMemory(CPU)
    touch_new_memory(64 * MEBIBYTE)  # freed before the peak is read
    assert memory.bytes == pytest.approx(64 * MEBIBYTE, rel=0.1)
    del kept


def test_runs_take_turns_after_one_to_warm_up() -> None:
    order: list[str] = []
    runs = dict(a=lambda: order.append('a'), b=lambda: order.append('b'))
    times = time_side_by_side(runs, 3, CPU)
    assert ''.join(order) == 'abababab'
    assert [len(times[name].seconds) for name in 'ab'] == [3, 3]


def test_times_are_shown_as_median_and_range() -> None:
    assert str(Times([4, 1, 1.5])) == '1.50 s (1.00 to 4.00)'


def test_the_machine_and_the_versions_are_in_the_sentence() -> None:
    sentence = describe(machine_and_versions(CPU))
    assert f'threads {torch.get_num_threads()}' in sentence
    assert f'torch {torch.__version__}, mmdet ' in sentence
