"""The operators import and run where there is torch, but none of OpenMMLab."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = """
import sys

ABSENT = 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'packaging'


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


sys.meta_path.insert(0, Absent())

import torch

from mmdat import ops

assert 'triton' not in sys.modules  # whose import takes long; PyTorch may import it below

query, keys = torch.rand(1, 2, 4, 6, 8), torch.rand(1, 2, 5, 8)
locations, table, taps = torch.rand(1, 2, 5, 2), torch.rand(2, 7, 11), torch.rand(1, 2, 8, 9, 4, 6)
CALLS = dict(
    deformable_attention=(query, keys, keys, locations, table),
    global_attention=(query, keys, keys),
    grid_points=(4, 6),
    key_locations=(
        torch.rand(1, 32, 4, 6), torch.rand(16), torch.rand(16), torch.rand(2, 16, 1, 1)
    ),
    layer_norm=(torch.rand(1, 16, 4, 6), torch.rand(16), torch.rand(16)),
    log_spaced_deformable_attention=(
        query, keys, keys, locations, torch.rand(3, 2), torch.rand(3), torch.rand(1, 3)
    ),
    neighborhood_attention=(query, query, query, torch.rand(2, 5, 5)),
    reference_points=(4, 6),
    relative_position_bias=(ops.grid_points(4, 6).flatten(0, 1), locations, table),
    residual_add=(torch.rand(1, 16, 4, 6), torch.rand(1, 16, 4, 6)),
    residual_depthwise_conv=(torch.rand(1, 16, 4, 6), torch.rand(16, 1, 3, 3), torch.rand(16)),
    sample_at=(torch.rand(1, 4, 6, 8), torch.rand(1, 2, 3, 4, 2)),
    slide_attention=(query.movedim(-1, 2), taps, taps, torch.rand(2, 9)),
    strided_depthwise_conv=(torch.rand(1, 32, 4, 6), torch.rand(16, 1, 2, 2), torch.rand(16), 2),
    window_attention=(query, query, query, 3),
)
assert set(ops.__all__) == {*CALLS, 'prefer_implementation'}
for implementation in ('auto', 'dense', 'tiled'):
    for name, args in CALLS.items():
        args = [x.requires_grad_() if isinstance(x, torch.Tensor) else x for x in args]
        with ops.prefer_implementation(implementation):
            out = getattr(ops, name)(*args)
            if out.requires_grad:
                out.sum().backward()
        assert out.isfinite().all(), name
assert all(x.grad is not None for x in (query, keys, locations, table, taps))
print('done')
"""


def test_operators_run_with_torch_alone() -> None:
    run = subprocess.run([sys.executable, '-c', RUN], cwd=ROOT, capture_output=True, text=True)
    assert (run.stdout, run.returncode) == ('done\n', 0), run.stderr
