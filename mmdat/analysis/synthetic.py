"""Synthetic batches of images with annotations, to run a model without data."""

from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmdat.apis.toolboxes import toolbox_of

# The average over COCO's images.
NUM_OBJECTS = 7


def synthetic_batch(cfg: Config, batch_size: int, shape: tuple[int, int]) -> dict[str, list[Any]]:
    """Make a batch of noise with annotations, as a data loader would hand it to a config's model.

    The same arguments give the same batch.

    Args:
        cfg: The config, of mmdet, mmsegmentation or mmpretrain.
        batch_size: Number of images.
        shape: Height and width of the images in pixels.

    Returns:
        ``inputs``: a uint8 Tensor[3, height, width] for each image; ``data_samples``: for each
        image the annotations that training needs, all of class 0.
    """
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=generator)
        for _ in range(batch_size)
    ]
    annotate = ANNOTATORS[toolbox_of(cfg).name]
    samples = [annotate(shape, generator) for _ in images]
    for number, sample in enumerate(samples):
        sample.set_metainfo(
            dict(
                img_id=number,
                img_path=f'{number}.png',
                img_shape=shape,
                ori_shape=shape,
                pad_shape=shape,
                scale_factor=(1.0, 1.0),
            )
        )
    return dict(inputs=images, data_samples=samples)


def _boxes_and_masks(shape: tuple[int, int], generator: torch.Generator) -> BaseDataElement:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    height, width = shape
    corners = torch.rand(NUM_OBJECTS, 2, generator=generator) / 2
    sides = torch.rand(NUM_OBJECTS, 2, generator=generator) / 4 + 0.1
    boxes = torch.cat([corners, corners + sides], dim=1) * torch.tensor(2 * (width, height))
    masks = np.zeros((NUM_OBJECTS, height, width), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
        mask[top : bottom + 1, left : right + 1] = 1
    return DetDataSample(
        gt_instances=InstanceData(
            bboxes=boxes,
            labels=torch.zeros(NUM_OBJECTS, dtype=torch.long),
            masks=BitmapMasks(masks, height, width),
        ),
        ignored_instances=InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        ),
    )


def _class_of_each_pixel(shape: tuple[int, int], _: torch.Generator) -> BaseDataElement:
    from mmseg.structures import SegDataSample

    classes = torch.zeros(1, *shape, dtype=torch.long)
    return SegDataSample(gt_sem_seg=PixelData(data=classes))


def _class_of_the_image(_: tuple[int, int], __: torch.Generator) -> BaseDataElement:
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(0)


ANNOTATORS = dict(
    mmdet=_boxes_and_masks, mmseg=_class_of_each_pixel, mmpretrain=_class_of_the_image
)
