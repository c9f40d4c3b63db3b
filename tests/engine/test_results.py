"""The predictions of a test are written, whatever the evaluator and the model."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from mmengine.structures import BaseDataElement

from mmdat.engine import WriteResultsHook


class Data(list):
    metainfo: ClassVar = dict(classes=['a', 'b'])


class Loader(list):
    dataset = Data(range(2))


def test_predictions_of_a_model_of_ones_own_may_be_dicts(tmp_path: Path) -> None:
    out = tmp_path / 'out.pkl'
    hook = WriteResultsHook(dict(type='DumpResults', out_file_path=str(out)))
    batches: list[Any] = [[dict(score=1)], [BaseDataElement(score=2)]]
    runner: Any = SimpleNamespace(test_dataloader=Loader(batches))
    for index, outputs in enumerate(batches):
        assert not out.exists()
        hook.after_test_iter(runner, index, None, outputs)
    assert pickle.loads(out.read_bytes()) == [dict(score=1, classes=('a', 'b')), dict(score=2)]
    assert batches[0] == [dict(score=1)]  # as the evaluator gets it
