"""Each head trains in two processes, whatever is in the images of one."""

from pathlib import Path

import pytest
from helpers import zoo
from helpers.nano import CLASSIFIERS, DETECTORS, SEGMENTORS
from helpers.two_processes import train_heads
from torch import multiprocessing


@pytest.mark.slow
@pytest.mark.parametrize('names', [DETECTORS, SEGMENTORS, CLASSIFIERS])
def test_each_head_trains_where_one_process_has_no_object(names: list[str], tmp_path: Path) -> None:
    zoo.draw_data(tmp_path)
    backbone = dict(frozen_stages=0, with_cp=True)
    # A gradient that is missing ends the second step.
    multiprocessing.spawn(train_heads, (names, tmp_path, backbone), nprocs=2)
