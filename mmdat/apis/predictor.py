"""A trained model that predicts images in memory, whatever its toolbox."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.datasets import CocoDataset
from mmdet.visualization.palette import get_palette
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from mmengine.structures import BaseDataElement
from pycocotools import mask as mask_api
from torch import Tensor

from mmdat.checks import config_tree
from mmdat.checks.exceptions import explained
from mmdat.checks.model_fit import head_classes

from .model import build_model, load_weights
from .toolboxes import toolbox_of

# Classes whose scores are brought to an image's size at a time; all of them could fill the memory.
CLASSES_AT_ONCE = 8
COCO_CATEGORY_IDS = sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})


@dataclass(frozen=True)
class Instances:
    """Objects in an image, the best first.

    Attributes:
        boxes: (n, 4) float32, as (x1, y1, x2, y2) in pixels.
        scores: (n,) float32, in [0, 1].
        labels: (n,) int64, from 0.
        masks: Of each object, as COCO's run-length encoding in the image's size; None if the model
            predicts boxes alone.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Prediction:
    """What a model says about an image; of the last three, what its task has is not None.

    Attributes:
        name: Path of the image or video below the folder that all inputs share.
        frame: Position in the video, from 0; None for an image.
        rate: Frames a second of the video; None for an image.
        image: (height, width, 3), RGB uint8, upright.
        classes: Names of the classes.
        instances: The objects that a detector found.
        class_map: (height, width), uint8, or uint16 with more than 256 classes: the class of each
            pixel, from 0, from a segmentor.
        class_scores: (num_classes,) float32, from a classifier.
    """

    name: str
    frame: int | None
    rate: float | None
    image: np.ndarray
    classes: Sequence[str]
    instances: Instances | None = None
    class_map: np.ndarray | None = None
    class_scores: np.ndarray | None = None


class Predictor:
    """The model of a config, with the weights of a checkpoint, ready to predict.

    Args:
        cfg: The config. Its data sets need not be there.
        checkpoint: Path or URL of a checkpoint of the config's model.
        device: Such as ``'cpu'`` or ``'cuda:0'``.
        score_thr: Detections below it are left out.

    Attributes:
        toolbox: Name of the model's toolbox: ``'mmdet'``, ``'mmseg'`` or ``'mmpretrain'``.
        classes: Names of the classes.
        palette: An RGB color for each class.
        category_ids: The number of each class in a detector's data.

    Raises:
        UserError: If the model cannot be built, or the checkpoint is of another one.
    """

    def __init__(
        self, cfg: Config, checkpoint: str, device: str = 'cpu', score_thr: float = 0.3
    ) -> None:
        self.toolbox = toolbox_of(cfg).name
        self.score_thr = score_thr
        with DefaultScope.overwrite_default_scope(self.toolbox), explained(cfg):
            if cfg.model.get('backbone'):
                cfg.model.backbone.init_cfg = None  # all weights are in the checkpoint
            self.model = build_model(cfg).eval()
            meta = load_weights(self.model, checkpoint)
            self._pipeline = [TRANSFORMS.build(step) for step in _pipeline_of(cfg)]
            dataset = _dataset_of(cfg)
            metainfo = {**_metainfo_of(dataset), **(meta.get('dataset_meta') or {})}
        self.model.to(device)
        num_classes = max((number for _, number in head_classes(self.model)), default=0)
        names = tuple(metainfo.get('classes') or ())
        self.classes = names + tuple(f'class {i}' for i in range(len(names), num_classes))
        palette = metainfo.get('palette')
        if not isinstance(palette, (list, tuple)) or len(palette) < len(self.classes):
            palette = get_palette('random', len(self.classes))
        self.palette = [tuple(map(int, color)) for color in palette]
        self.category_ids = _category_ids(dataset, self.classes)

    def __call__(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Predict a batch of images.

        Args:
            images: Each (height, width, 3), BGR uint8.

        Returns:
            For each image the attribute of a :class:`Prediction` that the model's task has.
        """
        with DefaultScope.overwrite_default_scope(self.toolbox), torch.no_grad():
            items = [self._prepare(image) for image in images]
            outputs: list[dict[str, Any]] = [{}] * len(items)
            for indices in self._batches(items):
                batch = {
                    key: [items[index][key] for index in indices]
                    for key in ('inputs', 'data_samples')
                }
                for index, sample in zip(indices, self.model.test_step(batch), strict=True):
                    outputs[index] = self._output(sample, images[index].shape[:2])
        return outputs

    def _prepare(self, image: np.ndarray) -> dict[str, Any]:
        item: dict[str, Any] = dict(img=image, img_path=None, img_id=0)
        for step in self._pipeline:
            item = step(item)
        if self.toolbox == 'mmseg' and not self._is_binary():
            # The scores are brought to the image's size in `_class_map`, which takes less memory.
            sample = item['data_samples']
            sample.set_metainfo(dict(ori_shape=sample.metainfo['img_shape']))
        return item

    def _batches(self, items: Sequence[dict[str, Any]]) -> list[list[int]]:
        """Indices of the images that run together: mmdet pads images, the others must be equal."""
        if self.toolbox == 'mmdet':
            return [list(range(len(items)))]
        batches: dict[Any, list[int]] = {}
        for index, item in enumerate(items):
            batches.setdefault(item['inputs'].shape, []).append(index)
        return list(batches.values())

    def _is_binary(self) -> bool:
        return getattr(self.model, 'out_channels', None) == 1

    def _output(self, sample: BaseDataElement, shape: tuple[int, int]) -> dict[str, Any]:
        if self.toolbox == 'mmpretrain':
            return dict(class_scores=sample.pred_score.cpu().numpy())
        if self.toolbox == 'mmdet':
            return dict(instances=_instances(sample.pred_instances, self.score_thr))
        if self._is_binary():
            return dict(class_map=sample.pred_sem_seg.data[0].to(torch.uint8).cpu().numpy())
        logits = sample.seg_logits.data
        return dict(class_map=_class_map(logits, shape, self.model.align_corners))


def _instances(predicted: Any, score_thr: float) -> Instances:
    predicted = predicted[predicted.scores >= score_thr]
    predicted = predicted[predicted.scores.argsort(descending=True)].cpu()
    masks = None
    if 'masks' in predicted:
        masks = [mask_api.encode(np.asfortranarray(mask, np.uint8)) for mask in predicted.masks]
    return Instances(
        predicted.bboxes.float().numpy(),
        predicted.scores.float().numpy(),
        predicted.labels.numpy(),
        masks,
    )


def _class_map(logits: Tensor, shape: tuple[int, int], align_corners: bool) -> np.ndarray:
    """Class of each pixel of an image, from Tensor[num_classes, h, w], as mmseg resizes it."""
    best: Tensor | None = None
    for first in range(0, len(logits), CLASSES_AT_ONCE):
        part = logits[None, first : first + CLASSES_AT_ONCE]
        part = F.interpolate(part, shape, mode='bilinear', align_corners=align_corners)
        scores, classes = part[0].max(0)
        classes = (classes + first).to(torch.int32)
        if best is None:
            best, winners = scores, classes
        else:
            winners = torch.where(scores > best, classes, winners)
            best = torch.maximum(scores, best)
    dtype = np.uint8 if len(logits) <= 256 else np.uint16
    return winners.cpu().numpy().astype(dtype)


def _dataset_of(cfg: Config) -> dict[str, Any]:
    """The first data set that the config tests on, or else trains on."""
    found = (
        dataset
        for split in ('test', 'val', 'train')
        for _, dataset in config_tree.datasets(cfg, split)
    )
    return next(found, {})


def _pipeline_of(cfg: Config) -> list[dict[str, Any]]:
    """The transforms of a test, with an image in memory in place of its file and annotations."""
    steps = _dataset_of(cfg).get('pipeline') or []
    names = [str(step['type']).split('.')[-1] for step in steps]
    to_float32 = any(step.get('to_float32', False) for step in steps)
    return [
        dict(type='mmdet.LoadImageFromNDArray', to_float32=to_float32),
        *(step for step, name in zip(steps, names, strict=True) if not name.startswith('Load')),
    ]


def _metainfo_of(dataset: dict[str, Any]) -> dict[str, Any]:
    """Names and colors of a data set's classes, which need not be there."""
    kind = DATASETS.get(dataset.get('type', ''))
    return {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}


def _category_ids(dataset: dict[str, Any], classes: tuple[str, ...]) -> list[int]:
    """Numbers of the classes in a detector's data: those of its annotations, if they are there.

    Otherwise COCO's own for COCO's classes, which have gaps, or else 1 for the first class.
    """
    path = Path(dataset.get('data_root') or '', dataset.get('ann_file') or '')
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        numbers = {item['name']: item['id'] for item in json.loads(path.read_text())['categories']}
        return [numbers[name] for name in classes]
    if classes == CocoDataset.METAINFO['classes']:
        return COCO_CATEGORY_IDS
    return [label + 1 for label in range(len(classes))]
