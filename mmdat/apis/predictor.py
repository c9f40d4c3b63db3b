"""A trained model that predicts images in memory, whatever its toolbox."""

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import BaseDataElement
from pycocotools import mask as mask_api
from torch import Tensor, nn

from mmdat import checks
from mmdat.checks.mmengine_private import in_scope
from mmdat.checks.run import check_device, check_least, check_share
from mmdat.errors import UserError
from mmdat.visualization import ImageMapping, Recording, record_attention, record_batch
from mmdat.visualization.predictions import distinct_colors

from .metainfo import (
    annotations_of,
    category_ids,
    class_names,
    color_type_of,
    dataset_of,
    image_ids,
    metainfo_of,
    pipeline_of,
    warn_of_other_names,
)
from .model import build_model, load_config, load_weights
from .results import Instances, Mask
from .slicing import Tile, average_logits, merge_instances, tiles
from .toolboxes import in_toolbox, toolbox_of

# Classes whose scores are brought to an image's size at a time; all of them could fill the memory.
CLASSES_AT_ONCE = 8
LEAST_SLICE = 32  # in pixels: the coarsest stride of the backbones
# Heads draw the masks of all objects at once, a byte or more for each pixel; in larger images they
# are drawn smaller, and enlarged one by one.
MOST_MASK_PIXELS = 4096 * 4096
SCORE_THR, OVERLAP = 0.3, 0.2  # where none are given
MOST_OVERLAP = 0.9  # each pixel is then in a hundred tiles


class Predictor:
    """The model of a config, with the weights of a checkpoint, ready to predict.

    Args:
        config: Path of a config, or the config. Its data sets need not be there.
        checkpoint: Path or URL of a checkpoint of the config's model.
        score_thr: Objects with a lower score are left out; 0.3 if None.
        batch_size: Images that run through the model together.
        device: Such as ``'cpu'`` or ``'cuda:0'``.
        slice_size: Side in pixels of tiles to predict one by one, where an image is larger; None
            for no tiles.
        overlap: Share of a tile that the next one has too; 0.2 if None.
        cfg_options: Values to put into the config, by dotted key.

    Attributes:
        batch_size: As given.
        can_slice: Whether a ``slice_size`` could be given, and was not.
        toolbox: Name of the model's toolbox: ``'mmdet'``, ``'mmseg'`` or ``'mmpretrain'``.
        classes: Names of the classes.
        palette: An RGB color for each class.
        category_ids: The number of each class in a detector's data; empty of other models.
        is_turning: Whether images are to be turned upright, as their EXIF data says.
        image_ids: The number of each image of a detector's data, by absolute path, if they are
            there.

    Raises:
        UserError: For a mistake in what was given.
    """

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike,
        *,
        score_thr: float | None = None,
        batch_size: int = 1,
        device: str = 'cpu',
        slice_size: int | None = None,
        overlap: float | None = None,
        cfg_options: dict[str, Any] | None = None,
    ) -> None:
        self._score_thr = SCORE_THR if score_thr is None else score_thr
        self._overlap = OVERLAP if overlap is None else overlap
        check_share('--score-thr', self._score_thr)
        check_least('--batch-size', batch_size, 1)
        check_device(device)
        check_share('--overlap', self._overlap, MOST_OVERLAP)
        if slice_size is not None:
            check_least('--slice', slice_size, LEAST_SLICE)
        cfg = load_config(config, cfg_options)
        self.toolbox = toolbox_of(cfg).name
        if slice_size is not None and self.toolbox == 'mmpretrain':
            raise UserError('--slice is not for classifiers: leave it out')
        if overlap is not None and slice_size is None:
            checks.log_warning('--overlap has no effect without --slice')
        if score_thr is not None and self.toolbox != 'mmdet':
            checks.log_warning('--score-thr has no effect: it is for detectors')
        color_type = color_type_of(cfg)
        self._is_gray = color_type == 'grayscale'
        self.is_turning = color_type != 'color_ignore_orientation'
        self.batch_size = batch_size
        self.can_slice = self.toolbox != 'mmpretrain' and slice_size is None
        self._slice_size = slice_size
        with in_toolbox(cfg):
            self._model = build_model(cfg).eval()
            _raise_thresholds(self._model, self._score_thr, is_given=score_thr is not None)
            meta = load_weights(self._model, os.fspath(checkpoint))
            self._pipeline = Compose(pipeline_of(cfg))
            dataset = dataset_of(cfg)
            trained_on = meta.get('dataset_meta')
            metainfo = metainfo_of(dataset, trained_on)
        warn_of_other_names(dataset, trained_on, os.fspath(checkpoint))
        self._model.to(device)
        self.classes = class_names(metainfo, self._model)
        palette = metainfo['palette']
        if len(palette) < len(self.classes):  # where not all have names
            palette = distinct_colors(len(self.classes))
        self.palette = [tuple(map(int, color)) for color in palette]
        is_detector = self.toolbox == 'mmdet'
        annotations = annotations_of(dataset) if is_detector else {}
        self.category_ids = category_ids(annotations, self.classes) if is_detector else []
        self.image_ids = image_ids(dataset, annotations)

    def __call__(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Predict images.

        Args:
            images: Each (height, width, 3), BGR uint8.

        Returns:
            For each image the attribute of a prediction that is of the model's task, by its name.

        Raises:
            UserError: For what is no such image, or not in a list.
        """
        if not hasattr(images, '__getitem__') or getattr(images, 'ndim', 4) < 4:
            got = type(images).__name__
            raise UserError(f'images come in a list, also a single one: give [image], got {got}')
        for image in images:
            _check_image(image)
        outputs: list[dict[str, Any]] = [{}] * len(images)
        whole = []
        for index, image in enumerate(images):
            if self._slice_size and max(image.shape[:2]) > self._slice_size:
                outputs[index] = self._predict_tiles(image)
            else:
                whole.append(index)
        samples = self._run([images[index] for index in whole])
        for index, sample in zip(whole, samples, strict=True):
            outputs[index] = self._output(sample, images[index].shape[:2])
        return outputs

    def record_attention(self, image: np.ndarray) -> Recording:
        """Run the backbone on an image and record what its attention looks at.

        Args:
            image: (height, width, 3), BGR uint8.

        Returns:
            The recording, with a mapping from the image to the network's input.

        Raises:
            UserError: If the backbone has no attention that can be recorded; for no such image.
        """
        _check_image(image)
        with in_scope(self.toolbox):
            (recording,) = record_batch(self._model, pseudo_collate(self._prepared([image])))
        return recording

    def predict_and_record(self, image: np.ndarray) -> tuple[dict[str, Any], Recording]:
        """Predict an image and record what the attention looks at, in one pass where that can be.

        Args:
            image: (height, width, 3), BGR uint8.

        Returns:
            As a call of the predictor gives for an image, and as :meth:`record_attention`.

        Raises:
            UserError: If the backbone has no attention that can be recorded; for no such image.
        """
        _check_image(image)
        test_cfg = getattr(self._model, 'test_cfg', None) or {}
        if self._slice_size or test_cfg.get('mode') == 'slide':  # a pass sees a part of the image
            return self([image])[0], self.record_attention(image)
        with record_attention(self._model.backbone) as recordings:
            (sample,) = self._run([image])
        mapping = sample.metainfo['mapping']
        return self._output(sample, image.shape[:2]), replace(recordings[0], mapping=mapping)

    def _output(self, sample: BaseDataElement, shape: tuple[int, int]) -> dict[str, Any]:
        if self.toolbox == 'mmpretrain':
            return dict(class_scores=sample.pred_score.cpu().numpy())
        if self.toolbox == 'mmdet':
            return dict(instances=_instances(sample, self._score_thr, shape))
        return dict(class_map=self._class_map(sample.seg_logits.data, shape))

    def _predict_tiles(self, image: np.ndarray) -> dict[str, Any]:
        """Predict tiles of an image; for objects that are larger than a tile also the whole."""
        assert self._slice_size is not None
        shape = image.shape[:2]
        places = tiles(shape, self._slice_size, self._overlap)
        if self.toolbox == 'mmdet':
            places.append(Tile(0, 0, shape[1], shape[0]))
        parts = self._run((place.crop(image) for place in places), in_tiles=True)
        if self.toolbox == 'mmdet':
            instances = [
                _instances(part, self._score_thr, place.shape)
                for part, place in zip(parts, places, strict=True)
            ]
            return dict(instances=merge_instances(instances, places, shape))
        bands = average_logits((part.seg_logits.data for part in parts), places, shape)
        return dict(class_map=np.vstack([self._class_map(band, band.shape[1:]) for band in bands]))

    def _run(
        self, images: Iterable[np.ndarray], in_tiles: bool = False
    ) -> Iterator[BaseDataElement]:
        """Run images through the model, batch by batch, and yield what the toolbox makes of them.

        Args:
            in_tiles: Whether a segmentor's logits are to be in the size of the image. That takes
                much memory; :meth:`_class_map` takes those of the network's input as well.
        """
        images = iter(images)
        while batch := list(itertools.islice(images, self.batch_size)):
            with in_scope(self.toolbox), torch.no_grad():
                items = self._prepared(batch)
                for item in items:
                    sample = item['data_samples']
                    # What follows changes the shapes that it comes from.
                    sample.set_metainfo(dict(mapping=ImageMapping.from_meta(sample.metainfo)))
                    if self.toolbox == 'mmdet':
                        _bound_masks(sample)
                samples: list[BaseDataElement] = [None] * len(items)
                for indices in _group_by_shape(items):
                    chosen = [items[index] for index in indices]
                    if self.toolbox == 'mmseg' and not in_tiles:
                        for item in chosen:
                            sample = item['data_samples']
                            sample.set_metainfo(dict(ori_shape=sample.metainfo['img_shape']))
                    results = self._model.test_step(
                        {key: [item[key] for item in chosen] for key in ('inputs', 'data_samples')}
                    )
                    for index, result in zip(indices, results, strict=True):
                        samples[index] = result
            yield from samples

    def _prepared(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """What the config's pipeline makes of images."""
        if self._is_gray:
            images = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in images]
        return [self._pipeline(dict(img=image, img_path=None, img_id=0)) for image in images]

    def _class_map(self, logits: Tensor, shape: Sequence[int]) -> np.ndarray:
        """Class of each pixel of an image, from Tensor[num_classes, h, w], as mmseg resizes it."""
        dtype = np.uint8 if len(self.classes) <= 256 else np.uint16
        best: Tensor | None = None
        for first in range(0, len(logits), CLASSES_AT_ONCE):
            part = logits[None, first : first + CLASSES_AT_ONCE]
            part = F.interpolate(
                part, tuple(shape), mode='bilinear', align_corners=self._model.align_corners
            )
            if len(logits) == 1:  # the probability of the second of two classes
                return (part[0, 0] > self._model.decode_head.threshold).cpu().numpy().astype(dtype)
            scores, classes = part[0].max(0)
            classes = (classes + first).to(torch.int32)
            if best is None:
                best, winners = scores, classes
            else:
                winners = torch.where(scores > best, classes, winners)
                best = torch.maximum(scores, best)
        return winners.cpu().numpy().astype(dtype)


def _group_by_shape(items: Sequence[dict[str, Any]]) -> Iterable[list[int]]:
    """Indices of images that run together: of equal shapes, or padding changes the results."""
    batches: dict[Any, list[int]] = {}
    for index, item in enumerate(items):
        batches.setdefault(item['inputs'].shape, []).append(index)
    return batches.values()


def _raise_thresholds(model: nn.Module, score_thr: float, is_given: bool) -> None:
    """Raise the thresholds of a detector's heads, which draw masks of all that is above them.

    Warns of one that is given in vain, as a head's is higher.
    """
    heads = (getattr(model, name, None) for name in ('bbox_head', 'roi_head', 'mask_head'))
    configs: list[Any] = [getattr(head, 'test_cfg', None) or {} for head in heads]
    configs = [test_cfg for test_cfg in configs if 'score_thr' in test_cfg]
    highest = max((test_cfg.score_thr for test_cfg in configs), default=0)
    if is_given and score_thr < highest:
        checks.log_warning(
            f'objects from a score of {score_thr:g} on are asked for, but score_thr={highest:g} in '
            'model.test_cfg leaves out those below: lower it in the config'
        )
    for test_cfg in configs:
        # Heads keep what is above their threshold, and what is at it is to be kept.
        test_cfg.score_thr = max(test_cfg.score_thr, math.nextafter(score_thr, 0))


def _bound_masks(sample: BaseDataElement) -> None:
    """Let a detector predict objects in a smaller size of a very large image."""
    height, width = sample.metainfo['ori_shape']
    ratio = math.sqrt(MOST_MASK_PIXELS / (height * width))
    if ratio < 1:
        shape = tuple(max(1, int(side * ratio)) for side in (height, width))
        x_scale, y_scale = sample.metainfo['scale_factor']
        scale_factor = (x_scale * width / shape[1], y_scale * height / shape[0])
        sample.set_metainfo(dict(ori_shape=shape, scale_factor=scale_factor))


def _check_image(image: Any) -> None:
    """Refuse what is no image in memory; a tensor's axes and values would be taken for others."""
    is_array = isinstance(image, np.ndarray)
    if (
        not is_array
        or image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or not image.size
    ):
        got = f'{image.dtype} of shape {image.shape}' if is_array else type(image).__name__
        raise UserError(
            'an image is a NumPy array of uint8, (height, width, 3) in BGR as cv2.imread gives, '
            f'got {got}'
        )


def _instances(sample: Any, score_thr: float, shape: tuple[int, int]) -> Instances:
    """Bring what a detector predicts to the size of the image."""
    predicted = sample.pred_instances
    kept = torch.nonzero(predicted.scores >= score_thr)[:, 0]
    kept = kept[predicted.scores[kept].argsort(descending=True)]
    masks = None
    if 'masks' in predicted:
        masks = [encode_mask(predicted.masks[index].cpu().numpy(), shape) for index in kept]
    height, width = sample.metainfo['ori_shape']
    scales = np.array([shape[1] / width, shape[0] / height] * 2, np.float32)
    return Instances(
        predicted.bboxes[kept].float().cpu().numpy() * scales,
        predicted.scores[kept].float().cpu().numpy(),
        predicted.labels[kept].cpu().numpy(),
        masks,
    )


def encode_mask(mask: np.ndarray, shape: tuple[int, int]) -> Mask:
    """Run-length encode a mask, in another size if it has one."""
    if mask.shape != shape:
        mask = cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_LINEAR)
    return mask_api.encode(np.asfortranarray(mask, np.uint8))
