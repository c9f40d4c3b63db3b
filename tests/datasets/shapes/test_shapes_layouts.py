"""The drawings in the layouts of ADE20K and of ImageNet; what all layouts share, with COCO's."""

import hashlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmdat.datasets import ShapesParameters
from mmdat.datasets.shapes.classify import ShapesClassifyDataset, write_shapes_classify
from mmdat.datasets.shapes.drawing import METAINFO, draw_scene
from mmdat.datasets.shapes.segment import LARGE_FIGURES, ShapesSegmentDataset, write_shapes_segment

SMALL = ShapesParameters(train=6, val=4, size=64)
WRITERS = dict(segment=write_shapes_segment, classify=write_shapes_classify)


@pytest.fixture(scope='module')
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data set of each layout."""
    folder = tmp_path_factory.mktemp('data')
    for task, write in WRITERS.items():
        write(folder / task, SMALL)
    return {task: folder / task for task in WRITERS}


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob('*')
        if path.is_file()
    }


@pytest.mark.parametrize('task', WRITERS)
def test_same_parameters_same_bytes(roots: dict[str, Path], tmp_path: Path, task: str) -> None:
    WRITERS[task](tmp_path / 'again', SMALL)
    assert digests(tmp_path / 'again') == digests(roots[task])


@pytest.mark.parametrize('task', WRITERS)
def test_no_image_is_there_twice(roots: dict[str, Path], task: str) -> None:
    images = [digest for name, digest in digests(roots[task]).items() if name.endswith('.jpg')]
    assert len(set(images)) == len(images) == 10


@pytest.mark.parametrize(
    'task, lost',
    [
        ('segment', 'annotations/training/*.png'),
        ('segment', 'images/validation/*.jpg'),
        ('classify', 'train/*/*.jpg'),
        ('classify', 'meta/val.txt'),
    ],
)
def test_an_incomplete_data_set_is_drawn_again(
    roots: dict[str, Path], tmp_path: Path, task: str, lost: str
) -> None:
    WRITERS[task](tmp_path / task, SMALL)
    next((tmp_path / task).glob(lost)).unlink()
    WRITERS[task](tmp_path / task, SMALL)
    assert digests(tmp_path / task) == digests(roots[task])


@pytest.mark.parametrize('task', WRITERS)
def test_a_complete_data_set_is_left_alone(roots: dict[str, Path], task: str) -> None:
    before = roots[task].stat().st_ctime_ns
    WRITERS[task](roots[task], SMALL)
    assert roots[task].stat().st_ctime_ns == before


def test_another_task_replaces_it(roots: dict[str, Path], tmp_path: Path) -> None:
    write_shapes_segment(tmp_path / 'shapes', SMALL)
    write_shapes_classify(tmp_path / 'shapes', SMALL)
    assert digests(tmp_path / 'shapes') == digests(roots['classify'])


@pytest.mark.parametrize('split, index, count', [('training', 0, 6), ('validation', 1, 4)])
def test_pixel_values_are_the_classes_that_are_seen(
    roots: dict[str, Path], split: str, index: int, count: int
) -> None:
    paths = sorted((roots['segment'] / 'annotations' / split).iterdir())
    assert [path.name for path in paths] == [f'{k:06d}.png' for k in range(1, count + 1)]
    for number, path in enumerate(paths, start=1):
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert values.dtype == np.uint8 and values.shape == (64, 64)
        scene = draw_scene(np.random.default_rng((0, index, number)), 64, **LARGE_FIGURES)
        for instance in scene.instances:
            assert (values[instance.mask] == instance.label + 2).all()
        assert (values[~np.any([i.mask for i in scene.instances], axis=0)] == 1).all()


def test_mmseg_reads_it(roots: dict[str, Path]) -> None:
    dataset = ShapesSegmentDataset(
        data_root=str(roots['segment']),
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=[dict(type='mmdat.LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')],
    )
    assert dataset.metainfo['classes'] == ('ground', *METAINFO['classes'])
    assert len(dataset.metainfo['palette']) == 5
    assert len(dataset) == 4
    for item in dataset:
        assert item['img'].shape == (64, 64, 3)
        seen = np.unique(item['gt_seg_map'])
        assert seen[0] == 0 and len(seen) > 1 and seen[-1] <= 4, 'ground and figures, nothing else'


@pytest.mark.parametrize('split, count', [('train', 6), ('val', 4)])
def test_mmpretrain_reads_it(roots: dict[str, Path], split: str, count: int) -> None:
    dataset = ShapesClassifyDataset(
        data_root=str(roots['classify']),
        split=split,
        pipeline=[dict(type='mmdat.LoadImageFromFile')],
    )
    assert tuple(dataset.metainfo['classes']) == METAINFO['classes']
    assert len(dataset) == count
    lines = (roots['classify'] / 'meta' / f'{split}.txt').read_text().splitlines()
    for item, line in zip(dataset, lines, strict=True):
        name, label = line.split()
        assert item['img'].shape == (64, 64, 3)
        assert item['img_path'].endswith(f'{split}/{name}')
        assert item['gt_label'] == int(label)
        assert Path(name).parent.name == METAINFO['classes'][int(label)]


@pytest.mark.slow
def test_projects_without_other_packages_have_the_rest() -> None:
    code = """
import os, sys
import mmdet.datasets  # what both share
for missing in ('mmseg', 'mmpretrain'):
    if os.fork() == 0:
        sys.modules[missing] = None
        from mmdat.registry import DATASETS
        tasks = 'Shapes', 'ShapesSegment', 'ShapesClassify'
        print(missing, *[task for task in tasks if DATASETS.get(f'{task}Dataset')], flush=True)
        os._exit(0)
    os.wait()
"""
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], text=True, capture_output=True, check=True
    )
    assert result.stdout.splitlines()[-2:] == [
        'mmseg Shapes ShapesClassify',
        'mmpretrain Shapes ShapesSegment',
    ]
