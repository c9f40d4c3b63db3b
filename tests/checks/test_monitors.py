"""What a training waits for in the results of validations must be in them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.engine.runner import TeacherStudentValLoop
from mmdet.models import MaskRCNN
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.optim.scheduler import ReduceOnPlateauLR
from mmengine.runner import ValLoop
from mmpretrain.evaluation import Accuracy
from mmseg.evaluation import IoUMetric
from torch import nn

from mmdat.checks import monitors
from mmdat.datasets import CocoMetric
from mmdat.errors import UserError

CLASSES = ('disk', 'box')
STOCK = MaskRCNN.__new__(MaskRCNN)  # as the class alone is looked at


class OwnMetric(Accuracy):
    """A metric that may give anything."""


def detections(**options: Any) -> CocoMetric:
    metric = CocoMetric(metric=['bbox', 'segm'], **options)
    metric.dataset_meta = dict(classes=CLASSES)
    return metric


def plateau(**options: Any) -> list[ReduceOnPlateauLR]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    return [ReduceOnPlateauLR(optimizer, **options)]


def validation(metrics: list[BaseMetric], kind: type[ValLoop] = ValLoop) -> ValLoop:
    """A loop with metrics alone."""
    loop = kind.__new__(kind)
    loop.evaluator = Evaluator(metrics)
    return loop


def check(
    *parts: Hook | list,
    metrics: list[BaseMetric] | None = None,
    model: nn.Module = STOCK,
    loop: type[ValLoop] = ValLoop,
) -> list[str]:
    """Check hooks and lists of schedulers; return the warnings."""
    found: list[str] = []
    val_loop = None if metrics is None else validation(metrics, loop)
    monitors.check_monitors(
        [part for part in parts if isinstance(part, Hook)],
        dict(enumerate(part for part in parts if isinstance(part, list))),
        val_loop,
        model,
        found.append,
    )
    return found


def evaluate_coco(metric: CocoMetric, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / 'val.json'
    corners = [2, 2, 9, 2, 9, 9, 2, 9]
    box = dict(image_id=1, bbox=[2, 2, 7, 7], area=49, iscrowd=0, segmentation=[corners])
    categories = [dict(id=number, name=name) for number, name in enumerate(CLASSES)]
    path.write_text(
        json.dumps(
            dict(
                images=[dict(id=1, height=16, width=16, file_name='a.png')],
                categories=categories,
                annotations=[dict(box, id=1, category_id=0), dict(box, id=2, category_id=1)],
            )
        )
    )
    metric.ann_file = str(path)
    metric._coco_api = CocoMetric(ann_file=str(path))._coco_api
    masks = [metric._coco_api.annToRLE(annotation) for annotation in metric._coco_api.anns.values()]
    found = dict(
        img_id=1,
        bboxes=torch.tensor([[2.0, 2, 9, 9]] * 2).numpy(),
        labels=torch.arange(2).numpy(),
        scores=torch.ones(2).numpy(),
        masks=masks,
    )
    metric.results = [(dict(img_id=1), found)]
    return metric.evaluate(1)


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(classwise=True, prefix='own'),
        dict(metric_items=['mAP_s', 'AR@300']),
        dict(metric='proposal', proposal_nums=(1, 10, 100)),
        dict(metric='bbox', format_only=True, outfile_prefix='out'),
    ],
)
def test_names_of_detection_are_those_that_are_given(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    metric = CocoMetric(**dict(metric=['bbox', 'segm']) | options)
    metric.dataset_meta = dict(classes=CLASSES)
    given = evaluate_coco(metric, tmp_path)
    assert monitors._names_of_results(validation([metric])) == set(given)


@pytest.mark.parametrize(
    'options',
    [dict(), dict(iou_metrics='mDice', prefix='own'), dict(iou_metrics=['mFscore', 'mIoU'])],
)
def test_names_of_segmentation_are_those_that_are_given(options: dict[str, Any]) -> None:
    metric = IoUMetric(**options)
    metric.dataset_meta = dict(classes=CLASSES)
    classes = torch.tensor([0, 1, 1])
    metric.results = [metric.intersect_and_union(classes, classes, 2, 255)]
    assert monitors._names_of_results(validation([metric])) == set(metric.evaluate(1))


@pytest.mark.parametrize('options', [dict(), dict(topk=(1, 2), thrs=(0.0, None), prefix='own')])
def test_names_of_classification_are_those_that_are_given(options: dict[str, Any]) -> None:
    metric = Accuracy(**options)
    metric.results = [dict(pred_score=torch.rand(3), gt_label=torch.tensor([1]))]
    assert monitors._names_of_results(validation([metric])) == set(metric.evaluate(1))


@pytest.mark.parametrize(
    'part',
    [
        CheckpointHook(save_best='auto'),
        CheckpointHook(save_best=['coco/bbox_mAP', 'coco/segm_mAP_50']),
        CheckpointHook(),
        EarlyStoppingHook('coco/segm_mAP'),
        plateau(monitor='coco/bbox_mAP_s', rule='greater'),
    ],
)
def test_metrics_that_come_are_taken(part: Any) -> None:
    assert not check(part, metrics=[detections()])


@pytest.mark.parametrize(
    'part, sentence',
    [
        (
            EarlyStoppingHook('acuracy/top1'),
            "monitor of EarlyStoppingHook is 'acuracy/top1', which val_evaluator does not give: "
            "did you mean 'accuracy/top1'?",
        ),
        (
            EarlyStoppingHook('coco/bbox_mAP'),
            "which val_evaluator does not give: allowed are 'accuracy/top1' and 'accuracy/top5'",
        ),
        (
            CheckpointHook(save_best=['accuracy/top1', 'accuracy/top3']),
            "default_hooks.checkpoint.save_best is 'accuracy/top3', which val_evaluator does not ",
        ),
        (
            plateau(),
            "monitor of param_scheduler.0 (ReduceOnPlateauLR) is 'loss', which val_evaluator does ",
        ),
        (
            plateau(monitor='accuracy/top1'),
            "(ReduceOnPlateauLR) is 'accuracy/top1', but its rule 'less' takes the worst for the "
            "best: set rule='greater'",
        ),
        (CheckpointHook(save_best='auto', rule='less'), "is 'auto', but its rule 'less' takes the"),
        (EarlyStoppingHook('accuracy/top5', rule='less'), "set rule='greater'"),
    ],
)
def test_metrics_that_never_come_and_their_worst_are_refused(part: Any, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        check(part, metrics=[Accuracy(topk=(1, 5))])
    assert sentence in str(refused.value)


def test_an_evaluator_that_only_writes_gives_no_metric() -> None:
    metric = detections(format_only=True, outfile_prefix='out')
    with pytest.raises(UserError, match='does not give: it gives none'):
        check(EarlyStoppingHook('coco/bbox_mAP'), metrics=[metric])


def test_nothing_is_said_of_metrics_that_are_not_known() -> None:
    parts = (EarlyStoppingHook('accuracy/top7'), CheckpointHook(save_best='own/loss'), plateau())
    assert not check(*parts, metrics=[Accuracy(), OwnMetric()])
    # A user's own model may give losses in validation.
    assert not check(*parts, metrics=[Accuracy()], model=nn.Linear(1, 1))
    assert not check(EarlyStoppingHook('score', rule='less'), metrics=[OwnMetric()])


@pytest.mark.parametrize(
    'part, usual',
    [(EarlyStoppingHook('val_loss', rule='greater'), 'less'), (plateau(monitor='top1'), 'greater')],
)
def test_a_rule_against_the_name_is_told(part: Any, usual: str) -> None:
    (warning,) = check(part, metrics=[OwnMetric()])
    assert warning.endswith(f"going by the name: set rule='{usual}' unless that is meant")


def test_what_waits_for_a_validation_needs_one() -> None:
    for part in (EarlyStoppingHook('mIoU'), plateau(monitor='mIoU')):
        with pytest.raises(UserError, match="is 'mIoU', but the training does not validate: leave"):
            check(part)
    assert check(CheckpointHook(save_best='mIoU')) == [
        "default_hooks.checkpoint.save_best is 'mIoU', but the training does not validate: no "
        'checkpoint will be the best'
    ]
    assert not check(CheckpointHook())


def test_a_loop_of_validation_may_rename_results() -> None:
    hook = CheckpointHook(save_best='teacher/coco/bbox_mAP')
    assert not check(hook, metrics=[detections()], loop=TeacherStudentValLoop)
    with pytest.raises(UserError, match="save_best is 'teacher/coco/bbox_mAP', which val_evaluat"):
        check(hook, metrics=[detections()])


def test_nothing_is_the_best_where_results_are_only_written() -> None:
    with pytest.raises(UserError, match="save_best is 'auto', which val_evaluator does not give"):
        check(
            CheckpointHook(save_best='auto'),
            metrics=[detections(format_only=True, outfile_prefix='out')],
        )
