"""Checks of the masks of semantic segmentation."""

import os
from typing import Any

from torch import nn

from mmdat.errors import UserError

from .images import are_loaded, is_whole

# Names of the transforms that load masks, or whatever else an image is annotated with.
ANNOTATION_LOADERS = {'LoadAnnotations', 'LoadSegmentationMap'}


def check_mask_files(dataset: Any) -> None:
    """Refuse a data set of semantic segmentation in which a mask is missing or cannot be read.

    Args:
        dataset: A built data set; any other than mmsegmentation's passes, and one that loads none.

    Raises:
        UserError: Names the image and the mask.
    """
    if not are_loaded(dataset, 'seg_map_path', ANNOTATION_LOADERS):
        return
    # Data sets of mmdet name masks too, which need not be there; they have no reduce_zero_label.
    if 'reduce_zero_label' not in dataset.get_data_info(0):
        return
    for index in range(len(dataset)):
        item = dataset.get_data_info(index)
        if not os.path.exists(item['seg_map_path']):
            raise UserError(
                f'image {item["img_path"]} has no mask {item["seg_map_path"]}: '
                'check data_prefix.seg_map_path and seg_map_suffix, or take the '
                'image out of the data set'
            )
        if not is_whole(item['seg_map_path']):
            raise UserError(
                f'mask {item["seg_map_path"]} cannot be read (it is not whole): mend it, or take '
                'its image out of the data set'
            )


def check_mask_classes(model: nn.Module, batch: Any) -> None:
    """Refuse a mask with a class that the head does not have.

    Args:
        model: Any model; one without ``decode_head`` passes.
        batch: What a data loader yields.

    Raises:
        UserError: Names the mask and the class.
    """
    head = getattr(model, 'decode_head', None)
    num_classes = getattr(head, 'num_classes', None)
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    if num_classes is None or samples is None:
        return
    ignored = getattr(head, 'ignore_index', 255)
    for sample in samples:
        values = sample.gt_sem_seg.data
        wrong = values[(values >= num_classes) & (values != ignored)]
        if wrong.numel():
            raise UserError(
                f'mask {sample.metainfo.get("seg_map_path", "of an image")} has class '
                f'{int(wrong[0])} (counted from 0, after reduce_zero_label), but there are '
                f'{num_classes} classes: mend the mask, or name all classes'
            )
