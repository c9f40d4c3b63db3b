"""Files as annotation programs write them are learned from and evaluated as they were meant."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_api

from mmdat.checks.coco import check_evaluator
from mmdat.datasets import CocoDataset, CocoMetric

HEIGHT, WIDTH = 40, 60
# Two rings and a cross, in two images, as x, y, width and height.
RINGS = [[4, 6, 20, 10], [30, 12, 16, 22]]
CROSS = [40, 2, 12, 9]


def corners(box: list[int]) -> list[float]:
    x, y, width, height = box
    return [float(v) for v in (x, y, x + width, y, x + width, y + height, x, y + height)]


def run_lengths(box: list[int]) -> dict[str, Any]:
    """Uncompressed run lengths of a box, column by column."""
    x, y, width, height = box
    mask = np.zeros((HEIGHT, WIDTH), int)
    mask[y : y + height, x : x + width] = 1
    flat = mask.flatten(order='F')
    ends = [*(np.flatnonzero(np.diff(flat)) + 1), flat.size]
    return dict(size=[HEIGHT, WIDTH], counts=np.diff([0, *ends]).tolist())


def labelme() -> dict[str, Any]:
    """Ids from 0, a background, no crowd flag in some versions, names with a folder."""
    return dict(
        info=dict(description=None, url=None, version=None, year=2026),
        licenses=[dict(url=None, id=0, name=None)],
        type='instances',
        images=[
            dict(license=0, url=None, file_name=f'JPEGImages/{i}.png', height=HEIGHT, width=WIDTH,
                 date_captured=None, id=i)
            for i in range(2)
        ],
        categories=[
            dict(supercategory=None, id=number, name=name)
            for number, name in enumerate(('_background_', 'ring', 'cross'))
        ],
        annotations=[
            dict(id=i, image_id=image, category_id=category, segmentation=[corners(box)],
                 area=float(box[2] * box[3]), bbox=[float(v) for v in box], iscrowd=0)
            for i, (image, category, box) in enumerate(
                [(0, 1, RINGS[0]), (0, 2, CROSS), (1, 1, RINGS[1])])
        ],
    )  # fmt: skip


def cvat() -> dict[str, Any]:
    """Masks as crowds of run lengths, with attributes."""
    return dict(
        licenses=[dict(name='', id=0, url='')],
        info=dict(contributor='', date_created='', description='', url='', version='', year=''),
        categories=[
            dict(id=1, name='ring', supercategory=''),
            dict(id=2, name='cross', supercategory=''),
        ],
        images=[
            dict(id=i + 1, width=WIDTH, height=HEIGHT, file_name=f'{i}.png', license=0,
                 flickr_url='', coco_url='', date_captured=0)
            for i in range(2)
        ],
        annotations=[
            dict(id=i, image_id=image, category_id=category, segmentation=run_lengths(box),
                 area=float(box[2] * box[3]), bbox=[float(v) for v in box], iscrowd=1,
                 attributes=dict(occluded=False))
            for i, (image, category, box) in enumerate(
                [(1, 1, RINGS[0]), (1, 2, CROSS), (2, 1, RINGS[1])], start=1)
        ],
    )  # fmt: skip


def roboflow() -> dict[str, Any]:
    """A first category that groups the others and has the name of one of them."""
    return dict(
        info=dict(year='2026', version='1', description='Exported from roboflow.com'),
        licenses=[dict(id=1, url='', name='CC BY 4.0')],
        categories=[
            dict(id=0, name='ring', supercategory='none'),
            dict(id=1, name='cross', supercategory='ring'),
            dict(id=2, name='ring', supercategory='ring'),
        ],
        images=[
            dict(id=i, license=1, file_name=f'{i}.png', height=HEIGHT, width=WIDTH)
            for i in range(2)
        ],
        annotations=[
            dict(id=i, image_id=image, category_id=category, bbox=box, area=box[2] * box[3],
                 segmentation=[corners(box)], iscrowd=0)
            for i, (image, category, box) in enumerate(
                [(0, 2, RINGS[0]), (0, 1, CROSS), (1, 2, RINGS[1])])
        ],
    )  # fmt: skip


def label_studio() -> dict[str, Any]:
    """Names with the folders of another system, an ignore flag, one object without an area."""
    return dict(
        images=[
            dict(width=WIDTH, height=HEIGHT, id=i, file_name=f'images\\{i}.png') for i in range(2)
        ],
        categories=[dict(id=0, name='cross'), dict(id=1, name='ring')],
        annotations=[
            dict(id=i, image_id=image, category_id=category, segmentation=[corners(box)],
                 bbox=[float(v) for v in box], ignore=0, iscrowd=0,
                 area=float(box[2] * box[3] * (i != 1)))
            for i, (image, category, box) in enumerate(
                [(0, 1, RINGS[0]), (0, 0, CROSS), (1, 1, RINGS[1])])
        ],
        info=dict(year=2026, version='1.0', description='', contributor='Label Studio', url=''),
    )  # fmt: skip


def vgg() -> dict[str, Any]:
    """Text as ids, no sizes, polygons without their list, boxes and areas that are empty lists."""
    return dict(
        info=dict(year=2026, version='1', description='Exported using VGG Image Annotator'),
        images=[
            dict(id=str(i), width=0, file_name=f'{i}.png', license=1) for i in range(2)
        ],
        annotations=[
            dict(id=str(i), image_id=str(image), category_id=category, segmentation=corners(box),
                 area=[], bbox=[], iscrowd='0')
            for i, (image, category, box) in enumerate(
                [(0, 1, RINGS[0]), (0, 2, CROSS), (1, 1, RINGS[1])])
        ],
        licenses=[dict(id=1, name='Unknown', url='')],
        categories=[
            dict(supercategory='type', id=1, name='ring'),
            dict(supercategory='type', id=2, name='cross'),
        ],
    )  # fmt: skip


def lvis() -> dict[str, Any]:
    """Addresses instead of names, no crowd flags."""
    content = label_studio()
    for image in content['images']:
        name = image.pop('file_name').split('\\')[-1]
        image['coco_url'] = f'http://images.cocodataset.org/val2017/{name}'
    for annotation in content['annotations']:
        del annotation['iscrowd'], annotation['ignore']
    return content


@pytest.mark.parametrize('dialect', [lvis, labelme, cvat, roboflow, label_studio, vgg])
def test_dialect_is_read_as_it_was_meant(
    dialect: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    for index in range(2):
        cv2.imwrite(str(tmp_path / f'{index}.png'), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    path = tmp_path / '_annotations.coco.json'
    path.write_text(json.dumps(dialect()), encoding='utf-8-sig')
    dataset = CocoDataset(
        ann_file=path.name,
        data_root=str(tmp_path),
        data_prefix=dict(img=''),
        serialize_data=False,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
        ],
    )
    classes = dataset.metainfo['classes']
    assert sorted(classes) == ['cross', 'ring']
    ring, cross = classes.index('ring'), classes.index('cross')
    samples = [dataset[0], dataset[1]]
    assert [sample['gt_bboxes_labels'].tolist() for sample in samples] == [[ring, cross], [ring]]
    assert [sample['gt_ignore_flags'].any() for sample in samples] == [False, False]
    boxes = [sample['gt_bboxes'].tensor.tolist() for sample in samples]
    expected = [[x, y, x + width, y + height] for x, y, width, height in (RINGS[0], CROSS)]
    assert boxes[0] == expected
    assert samples[0]['gt_masks'].areas.tolist() == [200, 108]
    metric = CocoMetric(ann_file=dataset.ann_file, metric=['bbox', 'segm'])
    check_evaluator(metric, dataset)
    metric.dataset_meta = dataset.metainfo
    metric.results = [
        (
            dict(img_id=sample['img_id']),
            dict(
                img_id=sample['img_id'],
                bboxes=sample['gt_bboxes'].tensor.numpy(),
                labels=sample['gt_bboxes_labels'],
                scores=np.linspace(0.9, 0.8, len(sample['gt_masks'])),
                masks=[
                    mask_api.encode(np.asfortranarray(mask)) for mask in sample['gt_masks'].masks
                ],
            ),
        )
        for sample in samples
    ]
    figures = metric.evaluate(2)
    assert figures['coco/bbox_mAP'] == figures['coco/segm_mAP'] == 1
