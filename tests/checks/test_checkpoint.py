"""What is no checkpoint, or cannot be resumed from, is refused before a model is built."""

import io
import pickle
import subprocess
from pathlib import Path

import pytest
import torch

from mmdat import checks
from mmdat.checkpoints.reading import read_checkpoint
from mmdat.checks.checkpoint import check_class_order, latest_checkpoint
from mmdat.errors import UserError


def written(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    'content, resume, sentence',
    [
        (pickle.dumps(subprocess.run), False, r'cannot be loaded as a checkpoint: it is damaged'),
        (b'no checkpoint', False, r'cannot be loaded as a checkpoint: it is damaged'),
        (b'', False, r'cannot be loaded as a checkpoint: it is empty'),
        (b'PK\x03\x04junk', False, r'cannot be loaded as a checkpoint: it is damaged'),
        (written(dict(a=torch.ones(9)))[:-50], False, r'cannot be loaded as a checkpoint'),
        (written([torch.ones(9)]), False, r'holds no weights by name, but a list'),
        (written(torch.ones(9)), False, r'holds no weights by name, but a Tensor'),
        (written({1: torch.ones(9)}), False, r'holds no weights by name, but a dict'),
        (
            written(dict(state_dict={})),
            True,
            r'cannot be resumed from, since it has no meta and no message_hub and no optimizer:',
        ),
    ],
)
def test_a_wrong_checkpoint_is_refused(
    content: bytes, resume: bool, sentence: str, tmp_path: Path
) -> None:
    path = str(tmp_path / 'wrong.pth')
    Path(path).write_bytes(content)
    with pytest.raises(UserError, match=f'wrong.pth {sentence}') as caught:
        checks.before_loading(read_checkpoint(path), path, resume=resume)
    assert '\n' not in str(caught.value)


def test_weights_alone_can_be_loaded_but_not_resumed_from() -> None:
    weights = dict(a=torch.ones(9))
    for content in (weights, dict(state_dict=weights)):
        checks.before_loading(content, 'x.pth', resume=False)
        with pytest.raises(UserError, match='start from its weights with load_from'):
            checks.before_loading(content, 'x.pth', resume=True)


@pytest.mark.parametrize(
    'source, sentence',
    [
        ('nowhere.pth', r"there is no checkpoint 'nowhere.pth': give"),
        ('', r"there is no checkpoint '': give"),
        ('ftp://host/x.pth', r'ftp://.* is at an unknown kind of'),
        ('torchvision://resnet5', r'//resnet5 is not in that model'),
    ],
)
def test_a_checkpoint_that_is_not_there_is_refused(source: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_checkpoint(source)


def test_the_latest_checkpoint_is_the_one_named_last(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f'--resume found no checkpoint in {tmp_path}: train'):
        latest_checkpoint(str(tmp_path))
    (tmp_path / 'last_checkpoint').write_text('epoch_3.pth')
    assert latest_checkpoint(str(tmp_path)) == 'epoch_3.pth'


def test_classes_in_another_order_than_in_training_are_refused() -> None:
    warnings: list[str] = []
    trained = dict(meta=dict(dataset_meta=dict(classes=('person', 'sofa', 'cat'))))
    check_class_order(trained, 'a.pth', ['person', 'sofa', 'cat'], warnings.append)
    check_class_order(dict(), 'a.pth', ['cat'], warnings.append)
    check_class_order(trained, 'a.pth', ['cat'], warnings.append)  # heads differ
    assert not warnings
    with pytest.raises(UserError, match=r"order, so that 'person -> sofa' and 'sofa -> person' w"):
        check_class_order(trained, 'a.pth', ('sofa', 'person', 'cat'), warnings.append)
    check_class_order(trained, 'a.pth', ('person', 'couch', 'cat'), warnings.append)
    assert len(warnings) == 1
    assert "1 of the 3 classes of a.pth have another name in the data: 'sofa -> co" in warnings[0]
