"""What mmdat changes in how mmengine and PyTorch read checkpoints."""

import builtins
import pickle
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import VISBACKENDS
from mmengine.runner import CheckpointLoader

from mmdat.checkpoints import read_checkpoint
from mmdat.errors import UserError


def test_history_survives_a_safe_load(tmp_path: Path) -> None:
    path = tmp_path / 'history.pth'
    torch.save({'loss': HistoryBuffer([1.0, 3.0], [1, 1])}, path)
    assert torch.load(path, weights_only=True)['loss'].mean() == 2


class Attack:
    def __reduce__(self) -> tuple:
        return builtins.getattr, (HistoryBuffer, '__init__')


def test_allow_list_opens_no_other_attribute(tmp_path: Path) -> None:
    path = tmp_path / 'attack.pth'
    torch.save({'loss': Attack()}, path)
    with pytest.raises(pickle.UnpicklingError, match='not allowed'):
        torch.load(path, weights_only=True)
    with pytest.raises(UserError, match='getattr.*__init__.*could run code'):
        read_checkpoint(str(path), skip_objects=True)


def test_yaml_holds_plain_values_alone(tmp_path: Path) -> None:
    path = tmp_path / 'annotations.yaml'
    path.write_text('classes: [cat, dog]')
    assert mmengine.load(path) == dict(classes=['cat', 'dog'])
    path.write_text(f"!!python/object/apply:os.mkdir ['{tmp_path}/ran']")
    with pytest.raises(UserError, match='asks for what could run code'):
        mmengine.load(path)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('scheme', ['mmcls', 's3', 'mine:s3', 'petrel', 'pavi'])
def test_a_store_that_would_run_code_is_refused(scheme: str) -> None:
    with pytest.raises(UserError, match='download it, and give the path'):
        CheckpointLoader.load_checkpoint(f'{scheme}://vgg11', logger='silent')


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    backend = VISBACKENDS.build(dict(type='LocalVisBackend', save_dir=str(tmp_path)))
    image = np.zeros((2, 2, 3), np.uint8)
    backend.add_image('folder/name', image)
    assert (tmp_path / 'vis_image/folder/name_0.png').is_file()
    (tmp_path / 'vis_image/name_1.png').mkdir()
    with pytest.raises(UserError, match=r'name_1\.png cannot be written'):
        backend.add_image('name', image, 1)
