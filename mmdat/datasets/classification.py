"""Folders and lists of images by class, in which the names of the classes decide."""

import os
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from mmpretrain.datasets import CustomDataset

from mmdat.checks.folders import find_files, is_hidden, read_lines
from mmdat.checks.images import IMAGE_SUFFIXES
from mmdat.errors import UserError, enumerate_names
from mmdat.registry import DATASETS


@DATASETS.register_module()
class ClassificationDataset(CustomDataset):
    """mmpretrain's ``CustomDataset`` that goes by the names of the classes.

    A folder is the class of its name, whatever the order of ``metainfo['classes']`` and whichever
    other folders there are; hidden folders are none. In a list (``ann_file``), a line is the path
    of an image and its class, by name or counted from 0, with a tab, semicolon, comma or blank
    between them.

    Args:
        extensions: What the names of images end in, in upper or lower case.
        kwargs: As for mmpretrain's data set.

    Raises:
        UserError: If a folder or a line of a list has no class, or there are no images.
    """

    def __init__(self, extensions: Sequence[str] = IMAGE_SUFFIXES, **kwargs: Any) -> None:
        super().__init__(extensions=extensions, **kwargs)

    def load_data_list(self) -> list[dict]:
        if self.ann_file and self.with_label:
            return [
                dict(img_path=os.path.join(self.img_prefix, path), gt_label=label)
                for path, label in _read_list(self.ann_file, self.CLASSES or ())
            ]
        return super().load_data_list()

    def _find_samples(self) -> list:
        if not self.with_label:
            return super()._find_samples()
        root = self.img_prefix
        if not os.path.isdir(root):
            raise UserError(f'image folder {root} does not exist: check data_root and data_prefix')
        folders = sorted(
            entry.name for entry in os.scandir(root) if entry.is_dir() and not is_hidden(entry.name)
        )
        classes = self._metainfo.setdefault('classes', tuple(folders))
        numbers = _numbers(classes)
        if unknown := [
            name
            for name in folders
            if _composed(name) not in numbers
            and any(find_files(os.path.join(root, name), self.extensions))
        ]:
            raise UserError(
                f'{root} has the folders {enumerate_names(unknown)}, but metainfo.classes '
                f'are {enumerate_names(classes)}: rename or remove them, or add their classes'
            )
        samples = [
            (os.path.relpath(path, root), numbers[_composed(name)])
            for name in folders
            if _composed(name) in numbers
            for path in find_files(os.path.join(root, name), self.extensions)
        ]
        if not samples:
            raise UserError(
                f'there is no image in the folders in {root}: give each class a folder of its name '
                'with its images, and check data_root and data_prefix'
            )
        return samples


def _numbers(classes: Sequence[str]) -> dict[str, int]:
    return {_composed(name): number for number, name in enumerate(classes)}


def _composed(name: str) -> str:
    """A name in Unicode's composed form: Macs write letters and their signs apart."""
    return unicodedata.normalize('NFC', name)


def _read_list(path: str, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Read a list of images and their classes."""
    numbers = _numbers(classes)
    images = []
    for line in read_lines(path, ': check data_root and ann_file'):
        # Names of files and classes may hold any of these signs.
        for sign in re.finditer(r'[\t;, ]', line):
            label = _composed(line[sign.end() :].strip().strip('"'))
            if label in numbers or re.fullmatch(r'-?\d+', label):
                image = line[: sign.start()].rstrip('\t;, ').strip('"')
                images.append((image, numbers[label] if label in numbers else int(label)))
                break
        else:
            raise UserError(
                f"{path} has the line '{line[:80]}', which does not end in the number or name of a "
                f'class ({enumerate_names(classes)}): write the path of an image, a blank and that'
            )
    return images
