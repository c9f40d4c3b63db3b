"""labelme's files: a JSON with shapes for each image."""

import base64
import binascii
import io
import math
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mmdat.checks.coco_repairs import as_number
from mmdat.checks.images import open_image
from mmdat.errors import UserError

from .content import coco_content, run_lengths
from .files import Folder, find_each, read_json, split_of_folder, upright_size

CORNERS_OF_A_CIRCLE = 32
# Kinds of shapes that are outlines, in labelme and in programs that write its files.
POLYGONS = ('polygon', 'rotation', 'oriented_rectangle', 'quadrilateral')
RECTANGLES = ('rectangle', 'rotation', 'oriented_rectangle')
NO_LABEL = ('__ignore__', '_background_')


def read_labelme(folder: Folder, paths: list[str]) -> dict[str, dict[str, Any]]:
    """Read labelme's files, and return the content of a COCO file for each split.

    Polygons, rectangles, circles and masks are objects; those of the same group are one.

    Args:
        paths: JSON files relative to its root; those of other programs are passed over.

    Raises:
        UserError: If a file cannot be read, or if its image is not there.
    """
    files: dict[str, list[tuple[str, dict]]] = {}
    named: dict[str, str] = {}
    skipped: Counter[str] = Counter()
    for path in paths:
        content = read_json(folder.root / path)
        if isinstance(content, dict) and isinstance(content.get('shapes'), list):
            content.pop('imageData', None)  # the image once more, of all of which memory is short
            split = split_of_folder(path) or 'train'
            files.setdefault(split, []).append((path, content))
            name = content.get('imagePath')
            name = name.replace('\\', '/') if name and isinstance(name, str) else ''
            named[path] = str(PurePosixPath(path).parent / (name or PurePosixPath(path).stem))
    found = find_each(folder, named)
    read = {
        split: [
            _read_file(folder.root, path, found[path], content, skipped) for path, content in parts
        ]
        for split, parts in files.items()
    }
    classes = sorted(
        {item['name'] for parts in read.values() for *_, objects in parts for item in objects}
    )
    shapes = [
        shape for parts in files.values() for _, content in parts for shape in content['shapes']
    ]
    if count := sum(shape.get('shape_type') in RECTANGLES for shape in shapes):
        folder.note(
            f'{count} of {len(shapes)} shapes are rectangles: a BASE of masks learns them as such.'
        )
    if skipped:
        kinds = ', '.join(f'{count} of the kind {kind}' for kind, count in skipped.items())
        folder.note(f'Shapes without an area, or of unknown kinds, are left out: {kinds}.')
    return {split: coco_content(parts, classes) for split, parts in read.items()}


def _read_file(
    root: Path, path: str, image: str, content: dict[str, Any], skipped: Counter[str]
) -> tuple[str, tuple[int, int], list[dict[str, Any]]]:
    width, height = (as_number(content.get(key)) for key in ('imageWidth', 'imageHeight'))
    if not all(isinstance(side, int) and side > 0 for side in (width, height)):
        width, height = upright_size(root / image)
    objects: dict[Any, dict[str, Any]] = {}
    for index, shape in enumerate(content['shapes']):
        try:
            label = shape['label']
            if label in NO_LABEL:
                continue
            if not (isinstance(label, str) and label.strip()):
                raise ValueError
            outline = _outline(shape, (width, height))
        except (KeyError, TypeError, ValueError, OSError, binascii.Error):
            raise UserError(
                f'{root / path} has a shape, number {index + 1}, that has no label or cannot be '
                'read: mend it, or take it out'
            ) from None
        if outline is None:
            skipped[shape.get('shape_type', 'unknown')] += 1
            continue
        group = shape.get('group_id')
        key = ('alone', index) if group is None else (label, group)
        if isinstance(outline, dict):
            objects[('alone', index)] = dict(name=label, segmentation=outline)
        else:
            grouped = objects.setdefault(key, dict(name=label, segmentation=[]))
            grouped['segmentation'].append(outline)
    return image, (width, height), list(objects.values())


def _outline(shape: dict[str, Any], size: tuple[int, int]) -> list[float] | dict | None:
    """Polygon or run lengths of a shape; None of one without area."""
    points = [(float(x), float(y)) for x, y in shape['points']]
    kind = shape.get('shape_type') or 'polygon'
    if kind in POLYGONS and len(points) > 2:
        return [value for point in points for value in point]
    if kind == 'circle':
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        angles = [math.tau * i / CORNERS_OF_A_CIRCLE for i in range(CORNERS_OF_A_CIRCLE)]
        return [
            value
            for angle in angles
            for value in (x + radius * math.cos(angle), y + radius * math.sin(angle))
        ]
    if kind == 'rectangle':
        (x1, y1), (x2, y2) = points[0], points[len(points) // 2]
        return [x1, y1, x2, y1, x2, y2, x1, y2]
    if kind == 'mask':
        return _decode_mask(shape['mask'], points[0], size)
    return None


def _decode_mask(text: str, corner: tuple[float, float], size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths of a mask that is given as a PNG, to be laid at a corner of the image."""
    with open_image(io.BytesIO(base64.b64decode(text))) as image:
        part = np.asarray(image) > 0
    width, height = size
    whole = np.zeros((height, width), np.uint8, order='F')
    x, y = round(corner[0]), round(corner[1])
    target = whole[y : y + part.shape[0], x : x + part.shape[1]]
    target[:] = part[: target.shape[0], : target.shape[1]]
    return run_lengths(whole)
