"""Checks of data folders, and of the lists that give their images classes."""

import os
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from mmdat.errors import UserError

from . import config_tree

# Default scope of a toolbox -> the data set of the papers, and the variable with its folder.
DATA_OF_SCOPE = {
    'mmdet': ('COCO', 'COCO_ROOT'),
    'mmseg': ('ADE20K', 'ADE20K_ROOT'),
    'mmpretrain': ('ImageNet', 'IMAGENET_ROOT'),
}
# Type of a synthetic data set -> the task that tools/make_shapes.py draws it for.
TASK_OF_SHAPES = {
    'mmdat.ShapesDataset': 'detect',
    'mmdat.ShapesSegmentDataset': 'segment',
    'mmdat.ShapesClassifyDataset': 'classify',
}


def check_data_roots(cfg: Config, splits: Sequence[str]) -> None:
    """Refuse data roots that do not exist, before anything is built or written.

    Raises:
        UserError: Names the folder, and how to make or name it.
    """
    for split in splits:
        for path, dataset in config_tree.datasets(cfg, split):
            root = dataset.get('data_root')
            if not root or '://' in root or os.path.isdir(root):
                continue
            data, variable = DATA_OF_SCOPE[cfg.default_scope]
            how = f'set the environment variable that the config reads ({variable} for {data})'
            if task := TASK_OF_SHAPES.get(dataset.get('type')):
                how = (
                    f'make it with tools/make_shapes.py {root} --task {task}, or set the '
                    'environment variable that the config reads (SHAPES_...)'
                )
            raise UserError(
                f'data root {root} of {split}_dataloader does not exist: {how} or {path}.data_root'
            )


def check_labels(dataset: Any) -> None:
    """Refuse a label in a list of images and labels that is no class.

    Args:
        dataset: A built data set; one without such a list passes.

    Raises:
        UserError: Names the list and the image.
    """
    if not hasattr(dataset, 'get_data_info') or not len(dataset):
        return
    classes = dataset.metainfo.get('classes', ())
    label = dataset.get_data_info(0).get('gt_label')
    # Without a list the labels are those of folders.
    if not isinstance(label, int) or not dataset.ann_file or not classes:
        return
    for index in range(len(dataset)):
        item = dataset.get_data_info(index)
        if not 0 <= item['gt_label'] < len(classes):
            raise UserError(
                f'{dataset.ann_file} gives image {item["img_path"]} the class '
                f'{item["gt_label"]}, but there are {len(classes)} classes, '
                'counted from 0: mend it'
            )
