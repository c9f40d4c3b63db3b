"""COCO-format data that is checked before anything is trained on it."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.datasets.api_wrappers import COCO

from mmdat.checks.coco import (
    Tally,
    check_any_left,
    check_categories,
    check_class_names,
    class_names,
    log_once,
    read_coco,
)
from mmdat.checks.coco_reading import SizeOf
from mmdat.checks.config_tree import transforms
from mmdat.checks.images import is_local, is_turning, names_in, read_header
from mmdat.errors import UserError, enumerate_names
from mmdat.registry import DATASETS
from mmdat.visualization.predictions import colors_of

# Annotation file -> `file_name` of an image whose size the file lacks -> its width and height.
# Metrics, which do not know the folder of the images, read the same file.
sizes: defaultdict[str, dict[str, tuple[int, int]]] = defaultdict(dict)


class CheckedCOCO(COCO):
    """pycocotools' ``COCO`` that mends or refuses what it reads, and finds categories by name.

    Args:
        needs_masks: As for :func:`read_coco`.
        size_of: The same; by default the sizes that a data set of the file has read.

    Attributes:
        findings: What was mended or is suspicious in the file, a sentence each.

    Raises:
        UserError: If the file cannot be read or is not in COCO format.
    """

    def __init__(
        self, annotation_file: str, needs_masks: bool = False, size_of: SizeOf | None = None
    ) -> None:
        super().__init__()
        self.path = annotation_file
        self.findings: list[str] = []
        known = sizes[os.path.realpath(annotation_file)]
        self.dataset = read_coco(
            annotation_file, needs_masks, self.findings.append, size_of or known.get
        )
        for finding in self.findings:
            log_once(finding)
        self.createIndex()
        # What mmdet's constructor sets, which had no file to read.
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    def get_cat_ids(
        self, cat_names: Sequence[str] = (), sup_names: Sequence[str] = (), cat_ids: Any = ()
    ) -> list:
        """Return ids of categories, in the order of the names if there are any.

        A category that the file does not list, as it has no object of it, gets an id.

        Raises:
            UserError: If the file has no category of a name, but others.
        """
        if not cat_names:
            return super().get_cat_ids([], sup_names, cat_ids)
        check_categories(self.dataset, self.path, cat_names)
        categories = self.dataset['categories']
        ids = {category['name']: category['id'] for category in categories}
        for name in cat_names:
            if name not in ids:
                is_text = any(isinstance(number, str) for number in ids.values())
                ids[name] = name if is_text else max(ids.values()) + 1
                categories.append(dict(id=ids[name], name=name))
                self.cats[ids[name]] = categories[-1]
        return [ids[name] for name in cat_names]

    def loadCats(self, ids: Any = ()) -> list[dict]:  # noqa: N802  pycocotools' name
        return super().loadCats([ids] if isinstance(ids, str) else ids)

    def loadRes(self, resFile: Any) -> Any:  # noqa: N802, N803  pycocotools' names
        """Take results, also of a model that found nothing, where pycocotools fails."""
        return super().loadRes(resFile) if resFile else COCO()


@DATASETS.register_module()
class CocoDataset(MMDetCocoDataset):
    """mmdet's ``CocoDataset`` that finds mistakes in the data when it is built.

    Without ``classes`` in ``metainfo`` it has those of the annotation file, unless the file has
    all of COCO's. Images are found also if the folders in ``file_name`` are not below
    ``data_prefix``, as they were on another machine.

    Attributes:
        findings: What was mended or is suspicious in the annotation file, a sentence each.
        tally: What is used of the annotation file.

    Raises:
        UserError: If the annotation file is missing, not in COCO format, lacks a class of
            ``metainfo`` or leaves no image to use.
    """

    data_list: list[dict]

    def _load_metainfo(self, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        self._are_classes_given = 'classes' in (metainfo or {})
        loaded = super()._load_metainfo(metainfo)
        if isinstance(classes := loaded['classes'], (list, tuple)):
            # The names of the file are in this form as well.
            loaded['classes'] = tuple(
                unicodedata.normalize('NFC', name) if isinstance(name, str) else name
                for name in classes
            )
        return loaded

    def load_data_list(self) -> list[dict]:
        check_class_names(self.metainfo['classes'])
        # The other toolboxes, and the default, have another name for it.
        self.data_prefix.setdefault('img', self.data_prefix.get('img_path', self.data_root))
        self.tally = Tally()
        self._loads_masks = any(
            getattr(step, 'with_mask', False) for step in transforms(self.pipeline)
        )
        self._names_in = cache(names_in)
        self._moved: dict[str, str] = {}
        self.COCOAPI = self._read
        data_list = super().load_data_list()
        if self._moved:
            self.findings.append(
                f'{len(self._moved)} of the {len(data_list)} images of {self.ann_file} were found '
                f'without folders that their file_name has, such as {next(iter(self._moved))}'
            )
            log_once(self.findings[-1])
        del self.COCOAPI, self._names_in, self._moved  # which other processes cannot be sent
        return data_list

    def _read(self, path: str) -> CheckedCOCO:
        """Read the annotation file, and take the classes from it if the config names none."""
        coco = CheckedCOCO(path, self._loads_masks, self._read_size)
        self.findings = coco.findings
        in_file = class_names(coco.dataset)
        if not self._are_classes_given and not set(self.metainfo['classes']) <= set(in_file):
            self._metainfo['classes'] = in_file
            log_once(
                f'the config names no classes for {path}: they are the {len(in_file)} of the file, '
                f'{enumerate_names(in_file)}'
            )
        self._metainfo['palette'] = colors_of(self._metainfo, self.METAINFO)
        return coco

    def _read_size(self, name: Any) -> tuple[int, int] | None:
        """Read width and height of an image, as it is loaded, from its file."""
        if not is_local(self.backend_args) or not isinstance(name, str):
            return None
        header = read_header(self._find(name, os.path.join(self.data_prefix['img'], name)))
        if header is None:
            return None
        size = header.upright if is_turning(self) else header.stored
        sizes[os.path.realpath(self.ann_file)][name] = size
        return size

    def parse_data_info(self, raw_data_info: dict) -> dict:
        info = super().parse_data_info(raw_data_info)
        image, annotations = raw_data_info['raw_img_info'], raw_data_info['raw_ann_info']
        if len(info['instances']) < len(annotations):
            self.tally.leave_out(annotations, image, self.cat_ids)
        if is_local(self.backend_args):
            info['img_path'] = self._find(image['file_name'], info['img_path'])
        return info

    def _find(self, name: str, path: str) -> str:
        """Return the path of an image, without the first folders of its name if it is there."""
        if self._is_file(path):
            return path
        parts = name.replace('\\', '/').split('/')
        candidates = [os.path.join(self.data_prefix['img'], *parts[i:]) for i in range(len(parts))]
        found = next(filter(self._is_file, candidates), None)
        if found is None:
            return path
        if self._moved.setdefault(found, name) != name:
            raise UserError(
                f'the images {self._moved[found]!r} and {name!r} of {self.ann_file} would both be '
                f'{found}: give data_prefix the folder that their file_name begins in'
            )
        return found

    def _is_file(self, path: str) -> bool:
        folder, file = os.path.split(path)
        return file in self._names_in(folder)

    def filter_data(self) -> list[dict]:
        data_list = super().filter_data()
        min_size = (self.filter_cfg or {}).get('min_size', 0)
        if len(data_list) < len(self.data_list):
            small = sum(min(info['width'], info['height']) < min_size for info in self.data_list)
            empty = len(self.data_list) - len(data_list) - small
            self.tally.images_left_out.update(
                {
                    f'smaller than filter_cfg.min_size={min_size}': small,
                    'without an object (filter_cfg.filter_empty_gt)': empty,
                }
            )
        used = data_list
        if self._indices is not None:
            self.data_list = data_list
            used = self._get_unserialized_subset(self._indices)
        for info in used:
            self.tally.add(info['instances'], self._loads_masks)
        check_any_left(self.tally, self.ann_file, self.metainfo['classes'], self.test_mode)
        return data_list
