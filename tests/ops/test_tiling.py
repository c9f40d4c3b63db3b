"""Maps are cut into parts that lose nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmdat.ops import log_spaced_deformable_attention, tiling


@given(stop=st.integers(0, 200), step=st.integers(1, 60), unit=st.integers(1, 9))
def test_slices_cover_a_range_and_are_no_longer_than_asked(stop: int, step: int, unit: int) -> None:
    slices = tiling.even_slices(stop, step, unit)
    assert [i for part in slices for i in range(part.start, part.stop)] == list(range(stop))
    assert all(1 <= tiling.length(part) <= step for part in slices)
    if unit <= step:
        assert all(tiling.length(part) % unit == 0 for part in slices[:-1])


def test_row_blocks_change_neither_outputs_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in (
            (2, 4, 7, 8, 3),
            (2, 4, 5, 3),
            (2, 4, 5, 3),
            (2, 2, 5, 2),
            (6, 2),
            (6,),
            (2, 6),
        )
    ]
    results = []
    for logits_per_block in (2**24, 1):  # all rows in one block, and a block a row
        monkeypatch.setattr(tiling, 'LOGITS_PER_BLOCK', logits_per_block)
        out = log_spaced_deformable_attention(*inputs)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for whole, in_blocks in zip(*results, strict=True):
        torch.testing.assert_close(whole, in_blocks)
