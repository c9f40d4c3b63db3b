"""Pictures of predictions lie as their images do."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.logging import MMLogger
from mmpretrain.datasets import CustomDataset
from mmpretrain.structures import DataSample

from mmdat.engine import DrawPredictionsHook

NAMES = ('a/1.jpg', 'a/2.jpg', 'b/1.jpg', 'b/1.tif')


@pytest.mark.parametrize('split', [False, True])
def test_images_of_one_name_give_pictures_of_their_own(split: bool, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / 'images' / name), np.full((40, 60, 3), (0, 0, 255), np.uint8))
    extensions = ('.jpg', '.tif')
    dataset = CustomDataset(str(tmp_path / 'images'), extensions=extensions)
    parts = [dataset.get_subset([0]), dataset.get_subset([1, 2, 3])]
    gray = dict(type='mmpretrain.LoadImageFromFile', color_type='grayscale')
    parts[0].pipeline = Compose([gray])  # a part loads its own images alone
    wrapped = SimpleNamespace(datasets=parts, metainfo=dataset.metainfo)
    runner = SimpleNamespace(
        test_dataloader=SimpleNamespace(dataset=wrapped if split else dataset),
        logger=MMLogger.get_instance('drawing'),
    )
    hook = DrawPredictionsHook(
        str(tmp_path / 'pictures'), dict(type='mmpretrain.UniversalVisualizer')
    )
    hook.before_test(runner)
    paths = [dataset.get_data_info(index)['img_path'] for index in range(4)]
    samples = [DataSample(metainfo=dict(img_path=path)) for path in paths]
    for sample in samples:
        sample.set_pred_score(torch.tensor([0.2, 0.8])).set_pred_label(torch.tensor([1]))
    hook.after_test_iter(runner, 0, outputs=samples)
    found = [path for path in (tmp_path / 'pictures').rglob('*') if path.is_file()]
    assert sorted(str(path.relative_to(tmp_path / 'pictures')) for path in found) == [
        'a/1.jpg',
        'a/2.jpg',
        'b/1.jpg',
        'b/1.tif.png',
    ]
    for path in found:
        picture = cv2.imread(str(path))
        assert picture.shape == (256, 384, 3) and picture.std() > 0, 'a class is written on each'
        is_red = picture[-1, -1, 2] > picture[-1, -1, 0] + 100
        assert is_red != (split and path.match('a/1.jpg'))
