"""Conversion of boxes and polygons by the package labelformat.

It gets the files in the form that it reads without loss, as numbered copies in a temporary folder:
it knows neither images turned by EXIF data nor names with a comma, passes over lines of two kinds
and images without a label in silence, and finds labels in folders named so alone.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mmdat.errors import UserError

from .content import coco_content


def labelformat() -> ModuleType:
    """Import labelformat's formats.

    Raises:
        UserError: If it is not installed.
    """
    try:
        from labelformat import formats
    except ImportError as error:
        raise UserError(
            "YOLO and Pascal VOC are read by the package labelformat: pip install 'mmdat[data]', "
            f'or export COCO JSON ({error})'
        ) from None
    return formats


def convert(
    write: Callable[[Path], Any],
    paths: Sequence[str],
    sizes: Iterable[tuple[int, int]],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Convert a split to the content of a COCO file.

    Args:
        write: Writes numbered files into a folder, and returns labelformat's reader of them, whose
            categories are the numbers of the classes and whose images have numbers as names.
        paths: Of each image, as the COCO file is to have it.
    """
    objects: dict[int, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for label in write(Path(folder)).get_labels():
            objects[int(Path(label.image.filename).stem)] = [
                dict(name=classes[item.category.id], **_shape(item)) for item in label.objects
            ]
    return coco_content(
        [
            (path, size, objects.get(number, []))
            for number, (path, size) in enumerate(zip(paths, sizes, strict=True))
        ],
        classes,
    )


def _shape(item: Any) -> dict[str, Any]:
    """Box, or polygons, of an object of labelformat."""
    if hasattr(item, 'box'):
        box = item.box
        return dict(bbox=[box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin])
    polygons = item.segmentation.polygons
    return dict(segmentation=[[value for point in polygon for value in point]
                              for polygon in polygons])  # fmt: skip
