"""The table of what runs, compiles and exports tells the truth."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mmdat.models import ScalableViT

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def support(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module('support')


def test_what_computes_something_else_is_not_supported(
    support: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = ScalableViT('nano'), [torch.randn(1, 3, 64, 96)]
    for check in ('evaluation', 'training'):
        assert support.reason_against(check, model, images) == ''
        monkeypatch.setattr(torch, 'compile', lambda model, **_: model)
        assert support.reason_against(f'compiled {check}', model, images) == ''
        monkeypatch.setattr(
            torch, 'compile', lambda model, **_: ScalableViT('nano', out_indices=(3, 2, 1, 0))
        )
        assert 'results differ by' in support.reason_against(f'compiled {check}', model, images)
    torch.nn.init.constant_(model.embeddings[0][0].weight, torch.nan)
    assert 'results are not finite' in support.reason_against('evaluation', model, images)


def test_what_fails_is_told_below_the_table(support: ModuleType) -> None:
    row: dict[str, Any] = dict(backbone='DAT', implementation='auto', device='cpu', dtype='float32')
    reasons = dict.fromkeys(support.CHECKS, '') | {'ONNX': 'ValueError: no', 'training': 'Oh: no'}
    rows = [row | dict(reasons=reasons)]
    rows += [row | dict(implementation='tiled', reasons=reasons | dict(ONNX=''))]
    table = support.markdown(
        dict(date='2026-11-26', machine={}, versions={}, sizes=[[1, 2]], rows=rows)
    )
    assert '| DAT | auto | cpu | float32 | yes | no (1) | yes | yes | yes | no (2) |' in table
    assert '| cpu | float32 | all | none | all | all | all | DAT tiled |' in table
    assert table.endswith('\n1. `Oh: no`\n2. `ValueError: no`\n')


def test_the_page_shows_the_committed_results(support: ModuleType) -> None:
    results = json.loads((BENCHMARKS / 'results/support.json').read_text())
    page = (BENCHMARKS.parent / 'docs/attention.md').read_text()
    section = page.split('\n## What compiles and what exports\n')[1].split('\n## ')[0]
    assert f'\n\n{support.summary(results["rows"])}\n' in section
    assert results['date'] in section
