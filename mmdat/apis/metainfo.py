"""What a config says of its test data, which need not be there."""

import contextlib
import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import nn

from mmdat import checks
from mmdat.checks import config_tree
from mmdat.checks.masks import ANNOTATION_LOADERS
from mmdat.checks.model_fit import head_classes, proposes_regions
from mmdat.errors import UserError, enumerate_names
from mmdat.visualization.predictions import colors_of

# Transforms that load an 8-bit image of a file, or take one in memory.
IMAGE_LOADERS = ('LoadImageFromFile', 'LoadImageFromNDArray', 'LoadImageFromWebcam')
COCO_CATEGORY_IDS = sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})


def dataset_of(cfg: Config, splits: Sequence[str] = ('test', 'val', 'train')) -> dict[str, Any]:
    """The first data set of a config, of the first split that has one; empty if none has."""
    found = (dataset for split in splits for _, dataset in config_tree.datasets(cfg, split))
    return next(found, {})


def pipeline_of(cfg: Config) -> list[dict[str, Any]]:
    """The transforms of a test, with an image in memory in place of its file and annotations.

    Raises:
        UserError: If the config has none; those of training change images at random.
    """
    steps = _test_steps(cfg)
    to_float32 = any(step.get('to_float32', False) for step in steps)
    return [
        dict(type='mmdat.LoadImageFromArray', to_float32=to_float32),
        *(step for step in steps if not config_tree.class_name(step).startswith('Load')),
    ]


def color_type_of(cfg: Config) -> str:
    """The ``color_type`` with which a test loads images: ``'color'``, ``'grayscale'``, ...

    Raises:
        UserError: If it loads them so that an image in memory does not take its place, or with
            other channels than the model has.
    """
    for step in _test_steps(cfg):
        name = config_tree.class_name(step)
        if name in ANNOTATION_LOADERS or not name.startswith('Load'):
            continue
        if name not in IMAGE_LOADERS:
            raise UserError(
                f'the transform {step["type"]} of the test in {cfg.filename} loads images of its '
                f'own kind, which cannot be predicted: load them with {IMAGE_LOADERS[0]}'
            )
        color_type = step.get('color_type', 'color')
        channels = 1 if color_type == 'grayscale' else 3
        expected = (cfg.model.get('backbone') or {}).get('in_channels', 3)
        if expected != channels:
            raise UserError(
                f'model.backbone.in_channels is {expected}, but images are predicted with '
                f"{channels}, as of color_type='{color_type}' of {step['type']} in the test "
                "pipeline: only 3, or 1 with color_type='grayscale', can be predicted"
            )
        return color_type
    raise UserError(
        f'the transforms for a test in {cfg.filename} have no {IMAGE_LOADERS[0]}, whose place '
        'images in memory could take: begin with it'
    )


def _test_steps(cfg: Config) -> list[dict[str, Any]]:
    steps = dataset_of(cfg, ('test', 'val')).get('pipeline') or cfg.get('test_pipeline')
    if not steps:
        raise UserError(
            f'config {cfg.filename} has no transforms for a test: add test_dataloader or '
            'test_pipeline'
        )
    return steps


def metainfo_of(dataset: dict[str, Any], trained_on: Any) -> dict[str, Any]:
    """Names and colors of a model's classes: those that it was trained on, or its data set's.

    Args:
        dataset: A data set's config; the data need not be there.
        trained_on: ``dataset_meta`` of a checkpoint; None if it has none.
    """
    kind = None
    if 'type' in dataset:
        with DATASETS.switch_scope_and_registry(None) as registry:  # of the scope of the config
            kind = registry.get(dataset['type'])
    known = {key: value for key, value in config_tree.first_metainfo(trained_on).items() if value}
    defaults = getattr(kind, 'METAINFO', {})
    given = dataset.get('metainfo') or {}
    metainfo = {**defaults, **given, **known}
    if 'palette' in given:  # the training says what the classes are; colors can be chosen anew
        metainfo['palette'] = given['palette']
    return {**metainfo, 'palette': colors_of(metainfo, defaults)}


def warn_of_other_names(dataset: dict[str, Any], trained_on: Any, checkpoint: str) -> None:
    """Warn of names of classes in a config that give way to those of a checkpoint."""
    given = (dataset.get('metainfo') or {}).get('classes')
    trained = config_tree.first_metainfo(trained_on).get('classes') or ()
    if not isinstance(given, (list, tuple)) or len(given) != len(trained):
        return
    pairs = (
        [unicodedata.normalize('NFC', str(name)) for name in pair]
        for pair in zip(given, trained, strict=True)
    )
    if other := [f'{new} -> {old}' for new, old in pairs if new != old]:
        checks.log_warning(
            f'{len(other)} of the {len(given)} classes have another name in the config than in '
            f'{checkpoint}, whose names are taken: {enumerate_names(other)}'
        )


def class_names(metainfo: Mapping[str, Any], model: nn.Module) -> tuple[str, ...]:
    """Names of a model's classes; those without a name are called by their number, from 0."""
    if proposes_regions(model):
        return ('object',)
    names = tuple(metainfo.get('classes') or ())
    num_classes = max((number for *_, number in head_classes(model)), default=0)
    return names + tuple(f'class {i}' for i in range(len(names), num_classes))


def annotations_of(dataset: dict[str, Any]) -> dict[str, Any]:
    """The content of a data set's annotations in COCO's format; empty if they are not there."""
    path = Path(dataset.get('data_root') or '', dataset.get('ann_file') or '')
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding='utf-8'))
        return content if isinstance(content, dict) else {}
    return {}


def category_ids(annotations: dict[str, Any], classes: tuple[str, ...]) -> list[int]:
    """Numbers of the classes in a detector's data: those of its annotations, if they are there.

    Otherwise COCO's own for COCO's classes, which have gaps, or else 1 for the first class.
    """
    with contextlib.suppress(KeyError, TypeError):
        numbers = {item['name']: item['id'] for item in annotations['categories']}
        return [numbers[name] for name in classes]
    from mmdet.datasets import CocoDataset  # so that others than detectors need no mmdet

    if classes == CocoDataset.METAINFO['classes']:
        return COCO_CATEGORY_IDS
    return [label + 1 for label in range(len(classes))]


def image_ids(dataset: dict[str, Any], annotations: dict[str, Any]) -> dict[str, int]:
    """Numbers of the images in a detector's data, by absolute path; empty if it is not there."""
    prefix = dataset.get('data_prefix')  # classifiers' is a string
    prefix = prefix.get('img') if isinstance(prefix, Mapping) else prefix
    folder = os.path.join(dataset.get('data_root') or '', prefix or '')
    with contextlib.suppress(KeyError, TypeError):
        return {
            os.path.abspath(os.path.join(folder, item['file_name'])): item['id']
            for item in annotations['images']
        }
    return {}
