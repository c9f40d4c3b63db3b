"""The score of the truth is 1 in whatever dialect a file is written, and is that of the images."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.datasets.transforms import PackDetInputs
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmdet.evaluation import eval_recalls
from mmengine.dataset import Compose
from pycocotools import mask as mask_api

from mmdat.checks.coco import check_evaluator
from mmdat.datasets import CocoDataset, CocoMetric
from mmdat.errors import UserError

SIZE = 64
CLASSES = ('disk', 'box')


def content(
    image_ids: Sequence[Any] = (1, 2, 3),
    category_ids: Sequence[Any] = (1, 2),
    annotation_ids: list[Any] | None = None,
) -> dict[str, Any]:
    """A file with two boxes and a disk in each of some images."""
    images = [
        dict(id=number, file_name=f'{index}.png', height=SIZE, width=SIZE)
        for index, number in enumerate(image_ids)
    ]
    categories = [
        dict(id=number, name=name)
        for number, name in zip(category_ids, ('box', 'disk'), strict=True)
    ]
    annotations = []
    for index, image_id in enumerate(image_ids):
        for place, category in ((2, 0), (20, 1), (40, 0)):
            x, y, side = place + index, place, 12 + index
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=category_ids[category],
                    bbox=[x, y, side, side],
                    area=side**2,
                    iscrowd=0,
                    segmentation=[[x, y, x + side, y, x + side, y + side, x, y + side]],
                )
            )
    for annotation, number in zip(annotations, annotation_ids or [], strict=False):
        annotation['id'] = number
    return dict(images=images, categories=categories, annotations=annotations)


def write(folder: Path, value: object, name: str = 'val.json') -> str:
    (folder / name).write_text(json.dumps(value))
    return str(folder / name)


def build(path: str, **options: Any) -> CocoDataset:
    options = dict(metainfo=dict(classes=CLASSES), serialize_data=False) | options
    return CocoDataset(ann_file=path, data_prefix=dict(img=''), test_mode=True, **options)


def truth_of(dataset: CocoDataset) -> list[dict[str, Any]]:
    """What a detector predicts that makes no mistake."""
    samples = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        instances = info['instances']
        masks = [
            mask_api.merge(mask_api.frPyObjects(instance['mask'], SIZE, SIZE))
            for instance in instances
        ]
        found = dict(
            bboxes=torch.tensor([instance['bbox'] for instance in instances], dtype=torch.float32),
            labels=torch.tensor([instance['bbox_label'] for instance in instances]),
            scores=torch.linspace(0.9, 0.5, len(instances)),
            masks=masks,
        )
        samples.append(dict(img_id=info['img_id'], ori_shape=(SIZE, SIZE), pred_instances=found))
    return samples


def evaluate(
    metric: MMDetCocoMetric, dataset: CocoDataset, samples: list[dict]
) -> dict[str, float]:
    metric.dataset_meta = dataset.metainfo
    metric.process({}, copy.deepcopy(samples))
    return metric.evaluate(len(samples))


@pytest.mark.parametrize(
    'ids',
    [
        dict(annotation_ids=range(9)),
        dict(annotation_ids=[5, 5, 5, 7, 0, -1, 7, 8]),
        dict(annotation_ids=['a', None, 2.5]),
        dict(image_ids=[0, 7, 3]),
        dict(image_ids=['0', '1', '2']),
        dict(image_ids=['b', 'a', 10]),
        dict(image_ids=[2**63, 2**70, 1]),
        dict(category_ids=[2, 1]),
        dict(category_ids=[0, 90]),
        dict(category_ids=['b', 'a']),
    ],
)
def test_score_of_the_truth_is_one_whatever_the_ids(tmp_path: Path, ids: dict) -> None:
    path = write(tmp_path, content(**ids))
    dataset = build(path)
    metric = CocoMetric(ann_file=path, metric=['bbox', 'segm', 'proposal'], classwise=True)
    figures = evaluate(metric, dataset, truth_of(dataset))
    for name in ('bbox_mAP', 'segm_mAP', 'AR@100', 'box_precision', 'disk_precision'):
        assert figures[f'coco/{name}'] == 1, name


def test_figures_of_classes_have_their_names(tmp_path: Path) -> None:
    path = write(tmp_path, content(category_ids=[9, 5]))
    dataset = build(path)
    samples = truth_of(dataset)
    for sample in samples:  # none of the boxes is found
        found = sample['pred_instances']
        wanted = found['labels'] == CLASSES.index('disk')
        masks = [mask for mask, keep in zip(found['masks'], wanted, strict=True) if keep]
        for key in ('bboxes', 'labels', 'scores'):
            found[key] = found[key][wanted]
        found['masks'] = masks
    figures = evaluate(CocoMetric(ann_file=path, classwise=True), dataset, samples)
    assert figures['coco/disk_precision'] == 1
    assert figures['coco/box_precision'] == 0
    assert figures['coco/bbox_mAP'] == 0.5


def test_a_model_that_finds_nothing_has_an_average_precision_of_zero(tmp_path: Path) -> None:
    path = write(tmp_path, content())
    dataset = build(path)
    samples = truth_of(dataset)
    for sample in samples:
        sample['pred_instances'] = {
            key: value[:0] for key, value in sample['pred_instances'].items()
        }
    metric = CocoMetric(ann_file=path, metric=['bbox', 'segm', 'proposal'], classwise=True)
    figures = evaluate(metric, dataset, samples)
    names = ('bbox_mAP', 'segm_mAP', 'AR@100', 'box_precision')
    assert [figures[f'coco/{name}'] for name in names] == [0, 0, 0, 0]
    assert figures['coco/bbox_mAP_l'] == -1, 'there is no large object'


def test_figures_of_good_files_are_those_of_mmdet(tmp_path: Path) -> None:
    path = write(tmp_path, content())
    dataset = build(path, metainfo=dict(classes=('box', 'disk')))
    samples = truth_of(dataset)
    for index, sample in enumerate(samples):
        sample['pred_instances']['bboxes'] += index
    options: dict[str, Any] = dict(ann_file=path, metric=['bbox', 'segm'], classwise=True)
    ours = evaluate(CocoMetric(**options), dataset, samples)
    assert ours == evaluate(MMDetCocoMetric(**options), dataset, samples)
    assert 0 < ours['coco/bbox_mAP'] < 1


def test_images_that_were_not_tested_are_not_missed(tmp_path: Path) -> None:
    path = write(tmp_path, content())
    for indices in (1, [2, 0]):
        dataset = build(path, indices=indices)
        check_evaluator(metric := CocoMetric(ann_file=path), dataset)
        samples = truth_of(dataset)
        assert evaluate(metric, dataset, samples)['coco/bbox_mAP'] == 1
        # Tested twice, it counts once.
        assert evaluate(metric, dataset, 2 * samples)['coco/bbox_mAP'] == 1


def test_order_of_categories_differs_between_files(tmp_path: Path) -> None:
    dataset = build(write(tmp_path, content(category_ids=[1, 2])))
    other = content(category_ids=[2, 1])
    other['categories'].reverse()
    metric = CocoMetric(ann_file=write(tmp_path, other, 'other.json'))
    check_evaluator(metric, dataset)
    assert evaluate(metric, dataset, truth_of(dataset))['coco/bbox_mAP'] == 1


def test_annotations_of_the_data_set_are_evaluated_without_a_file(tmp_path: Path) -> None:
    dataset = build(write(tmp_path, content()))
    samples = truth_of(dataset)
    for index, sample in enumerate(samples):
        sample['instances'] = dataset.get_data_info(index)['instances']
    assert evaluate(CocoMetric(), dataset, samples)['coco/bbox_mAP'] == 1


def test_a_metric_that_gets_no_truth_at_all_is_refused(tmp_path: Path) -> None:
    dataset = build(write(tmp_path, content()))
    dataset.pipeline = Compose([PackDetInputs(meta_keys=('img_id', 'instances'))])
    check_evaluator(CocoMetric(), dataset)
    dataset.pipeline = Compose([PackDetInputs()])
    check_evaluator(SimpleNamespace(_coco_api=None, ann_file=None), dataset)  # that of panoptics
    with pytest.raises(UserError, match="the evaluator's CocoMetric has no ann_file"):
        check_evaluator(CocoMetric(), dataset)

    class LVISMetric(CocoMetric):
        """Reads its file into an attribute of its own, as mmdet's."""

    check_evaluator(LVISMetric(), dataset)


def test_file_for_other_images_or_classes_is_refused(tmp_path: Path) -> None:
    dataset = build(write(tmp_path, content()))
    check_evaluator(CocoMetric(), dataset)

    def refuse(value: dict, sentence: str) -> CocoMetric:
        metric = CocoMetric(ann_file=write(tmp_path, value, 'other.json'))
        with pytest.raises(UserError, match=sentence):
            check_evaluator(metric, dataset)
        return metric

    metric = refuse(content(image_ids=[1, 2, 4]), r'1 of the 3 .* are not in .* \(id 3\): give the')
    with pytest.raises(UserError, match=r'1 of the 3 images that were tested are not in .* id 3'):
        evaluate(metric, dataset, truth_of(dataset))
    renamed = content()
    renamed['images'][0]['file_name'] = 'x.png'
    refuse(renamed, r'1 of the 3 images of .*val.json are other images in .*other.json')
    resized, other_split, better = content(), content(), content()
    resized['images'][0]['width'] = 70
    refuse(resized, r'1 of the 3 images of .*val.json are other images in .*other.json')
    for number, annotation in enumerate(other_split['annotations'][:5]):
        annotation['bbox'] = [number, 50, 12, 12]
    refuse(other_split, r'5 of the 9 objects in .*val.json are not in .*other.json, though')
    other_split = content()
    for annotation in other_split['annotations']:
        annotation['category_id'] = 3 - annotation['category_id']
    refuse(other_split, r'9 of the 9 objects in .*val.json are not in .*other.json, though')
    for annotation in better['annotations']:
        annotation['bbox'][2] += 1
    check_evaluator(CocoMetric(ann_file=write(tmp_path, better, 'better.json')), dataset)
    renamed['categories'][0]['name'] = 'square'
    refuse(renamed, r"other.json has no category 'box'")
    refuse(content() | dict(annotations=[]), r'other.json has no annotations: give one that has')
    boxes = content()
    del boxes['annotations'][0]['segmentation']
    path = write(tmp_path, boxes, 'boxes.json')
    with pytest.raises(UserError, match=r"id 1 has no 'segmentation', which with_mask=True"):
        CocoMetric(ann_file=path, metric=['bbox', 'segm'])


def test_recalls_that_end_in_an_error_of_mmdet_are_refused(tmp_path: Path) -> None:
    ann_file = write(tmp_path, content())
    with pytest.raises(UserError, match="give metric='proposal'"):
        CocoMetric(ann_file=ann_file, metric=['bbox', 'proposal_fast'])
    # Where mmdet does not, the refusal can go: two images with other numbers of objects.
    boxes = [np.array([[0, 0, 4, 4]] * count, np.float32) for count in (1, 2)]
    with pytest.raises(ValueError, match='inhomogeneous'):
        eval_recalls(boxes, boxes, 10, 0.5)
