"""Images and masks in folders, whatever their suffixes and values, for semantic segmentation."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.datasets import BaseSegDataset

from mmdat.checks import log_warning
from mmdat.checks.folders import find_files, read_lines
from mmdat.checks.images import IMAGE_SUFFIXES
from mmdat.checks.masks import IGNORED
from mmdat.errors import UserError, enumerate_names
from mmdat.registry import DATASETS
from mmdat.visualization.predictions import distinct_colors


@DATASETS.register_module()
class SegmentationDataset(BaseSegDataset):
    """mmsegmentation's ``BaseSegDataset`` that takes files of any suffix and masks of any values.

    Searches the folders of images and of masks and those below them. An image and its mask have the
    same path but for the suffix. Images without a mask and masks without an image are left out,
    with a warning that counts them.

    Args:
        mask_values: Value in a mask -> name of its class, or None for what is ignored, such as
            ``{0: 'background', 255: 'road'}``. Several values may be one class. The classes are in
            the order of ``metainfo['classes']`` if that is given. By default the values are the
            numbers of the classes.
        img_suffix: End of the names of images, in upper or lower case, such as
            ``'_leftImg8bit.png'``; empty for that of any image file.
        seg_map_suffix: The same of masks.
        kwargs: As for mmsegmentation's data set; ``ann_file`` names the images to take, one a line,
            with or without suffix.

    Attributes:
        findings: What was left out of the folders, a sentence each.

    Raises:
        UserError: If there are no images with masks, two images or two masks have the same name, a
            listed image is missing, or ``mask_values`` contradicts the classes.
    """

    def __init__(
        self,
        mask_values: Mapping[int, str | None] | None = None,
        img_suffix: str = '',
        seg_map_suffix: str = '',
        metainfo: dict | None = None,
        **kwargs: Any,
    ) -> None:
        self.findings: list[str] = []
        # mmengine writes numbers that are keys as strings.
        self.mask_values = {int(value): name for value, name in (mask_values or {}).items()}
        if mask_values:
            metainfo = dict(metainfo or {})
            names = dict.fromkeys(name for name in self.mask_values.values() if name is not None)
            classes = metainfo.setdefault('classes', tuple(names))
            if set(classes) != set(names):
                raise UserError(
                    f'mask_values names the classes {enumerate_names(names)}, but metainfo.classes '
                    f'{enumerate_names(classes)}: give both the same, or leave out metainfo.classes'
                )
            if kwargs.get('reduce_zero_label'):
                raise UserError(
                    'mask_values says what each value stands for: leave out reduce_zero_label, and '
                    'give 0 the value None in mask_values if it is ignored'
                )
        super().__init__(
            img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, metainfo=metainfo, **kwargs
        )
        if not self.METAINFO.get('palette') and 'palette' not in (metainfo or {}):
            # mmseg's, drawn at random, can be alike.
            self._metainfo['palette'] = distinct_colors(len(self._metainfo.get('classes') or ()))

    def get_label_map(self, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """Return the class of each value of a mask, 255 for ignored ones; None to take it as is."""
        if not self.mask_values or new_classes is None:
            return super().get_label_map(new_classes)
        numbers = {name: number for number, name in enumerate(new_classes)}
        return {
            value: IGNORED if name is None else numbers[name]
            for value, name in self.mask_values.items()
        }

    def load_data_list(self) -> list[dict]:
        image_folder = self.data_prefix['img_path']
        mask_folder = self.data_prefix.get('seg_map_path')
        images = _files_by_name(image_folder, self.img_suffix, mask_folder, 'img_suffix')
        if not images:
            raise UserError(
                f'there is no image{f" *{self.img_suffix}" * bool(self.img_suffix)} in '
                f'{image_folder}: check data_root and data_prefix.img_path'
            )
        if self.ann_file:
            images = self._listed(images, image_folder)
        masks = {}
        if mask_folder:
            masks = _files_by_name(mask_folder, self.seg_map_suffix, image_folder, 'seg_map_suffix')
            images = self._with_masks(images, masks, mask_folder)
        data_list = []
        for name, path in sorted(images.items()):
            item = dict(
                img_path=path,
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
            if masks:
                item['seg_map_path'] = masks[name]
            data_list.append(item)
        return data_list

    def _listed(self, images: dict[str, str], folder: str) -> dict[str, str]:
        """Return the images that ``ann_file`` lists."""
        listed, missing = {}, []
        for line in read_lines(self.ann_file, ': check data_root and ann_file'):
            name = line if line in images else os.path.splitext(line)[0]
            if name in images:
                listed[name] = images[name]
            else:
                missing.append(line)
        if missing:
            raise UserError(
                f'{len(missing)} of the images that {self.ann_file} lists are not in {folder}, '
                f'such as {missing[0]}: mend the list, or check data_prefix.img_path'
            )
        return listed

    def _with_masks(
        self, images: dict[str, str], masks: dict[str, str], folder: str
    ) -> dict[str, str]:
        """Return the images that have a mask; warn of others and of masks without an image."""
        lonely = [path for name, path in images.items() if name not in masks]
        if len(lonely) == len(images):
            raise UserError(
                f'none of the {len(images)} images has a mask of the same name in {folder}, such '
                f'as {lonely[0]}: check data_prefix.seg_map_path, and give img_suffix and '
                'seg_map_suffix what their names end in'
            )
        unused = [path for name, path in masks.items() if name not in images]
        for paths, lacking in ((lonely, 'mask'), (() if self.ann_file else unused, 'image')):
            if paths:
                self.findings.append(
                    f'{len(paths)} files, such as {paths[0]}, have no {lacking} of the same name '
                    'and are left out'
                )
                log_warning(self.findings[-1])
        return {name: path for name, path in images.items() if name in masks}


def _files_by_name(folder: str, suffix: str, other: str | None, option: str) -> dict[str, str]:
    """Find the files in a folder that end in a suffix.

    Args:
        suffix: What names end in; that of any image if empty.
        other: A folder that is left out if it lies below.

    Returns:
        Path below the folder, without the suffix -> path.
    """
    found: dict[str, str] = {}
    for path in find_files(folder, (suffix,) if suffix else IMAGE_SUFFIXES, [other]):
        name = os.path.relpath(path, folder)
        name = name[: -len(suffix)] if suffix else os.path.splitext(name)[0]
        if name in found:
            raise UserError(
                f'{found[name]} and {path} have the same name but for the suffix: rename one, or '
                f"give {option} that of the files to take, as in {option}='.png'"
            )
        found[name] = path
    return found
