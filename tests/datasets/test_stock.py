"""Of good data, mmdat's data sets make of the same images what the toolboxes' own do."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS

from mmdat.datasets.shapes.classify import write_shapes_classify
from mmdat.datasets.shapes.coco import write_shapes_coco
from mmdat.datasets.shapes.files import ShapesParameters
from mmdat.datasets.shapes.segment import write_shapes_segment

# Toolbox -> what draws its data, its own type and mmdat's, options, and loaders of annotations.
TASKS: dict[str, tuple] = {
    'mmdet': (
        write_shapes_coco,
        ('CocoDataset', 'mmdat.CocoDataset'),
        dict(
            ann_file='annotations/instances_train.json',
            data_prefix=dict(img='train/'),
            metainfo=dict(classes=('square', 'triangle', 'ring', 'cross')),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
        ),
        ('LoadAnnotations', 'LoadAnnotations', dict(with_bbox=True, with_mask=True)),
    ),
    'mmseg': (
        write_shapes_segment,
        ('BaseSegDataset', 'mmdat.SegmentationDataset'),
        dict(
            data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
            metainfo=dict(classes=('ground', 'square', 'triangle', 'ring', 'cross')),
            reduce_zero_label=True,
        ),
        ('LoadAnnotations', 'mmdat.LoadSegmentationMap', {}),
    ),
    'mmpretrain': (
        write_shapes_classify,
        ('CustomDataset', 'mmdat.ClassificationDataset'),
        dict(data_prefix='train'),
        None,
    ),
}


@pytest.mark.parametrize('toolbox', TASKS)
def test_good_data_are_loaded_as_by_the_toolbox(toolbox: str, tmp_path: Path) -> None:
    write, types, options, annotations = TASKS[toolbox]
    write(tmp_path, ShapesParameters(train=4, val=1, size=96))

    def build(kind: str, loader: str, index: int) -> list[dict]:
        pipeline = [dict(type=loader)]
        if annotations:
            pipeline.append(dict(type=annotations[index], **annotations[2]))
        with DATASETS.switch_scope_and_registry(toolbox) as registry:
            dataset = registry.build(
                dict(type=kind, data_root=str(tmp_path), pipeline=pipeline, **options)
            )
        return [dataset[i] for i in range(len(dataset))]

    stock = build(types[0], 'LoadImageFromFile', 0)
    own = build(types[1], 'mmdat.LoadImageFromFile', 1)
    assert len(stock) == len(own) > 0
    for expected, sample in zip(stock, own, strict=True):
        assert expected.keys() == sample.keys()
        for key, value in expected.items():
            one, other = (
                getattr(x, 'tensor', getattr(x, 'masks', x)) for x in (value, sample[key])
            )
            np.testing.assert_equal(np.asarray(other), np.asarray(one), err_msg=key)
