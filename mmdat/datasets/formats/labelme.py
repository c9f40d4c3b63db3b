"""labelme's files: a JSON with shapes for each image."""

import base64
import binascii
import io
import math
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

from mmdat.errors import UserError

from .content import coco_content
from .files import Images, read_json, split_of, upright_size

CORNERS_OF_A_CIRCLE = 32
NO_LABEL = ('__ignore__', '_background_')


def read_labelme(images: Images, paths: list[str], notes: list[str]) -> dict[str, dict[str, Any]]:
    """Read labelme's files, and return the content of a COCO file for each split.

    Polygons, rectangles, circles and masks are objects; those of the same group are one.

    Args:
        paths: JSON files relative to its root; those of other programs are passed over.

    Raises:
        UserError: If a file cannot be read, or if its image is not there.
    """
    files: dict[str, list[tuple[str, dict]]] = {}
    skipped: Counter[str] = Counter()
    for path in paths:
        content = read_json(images.root / path)
        if isinstance(content, dict) and isinstance(content.get('shapes'), list):
            split = split_of(str(PurePosixPath(path).parent)) or 'train'
            files.setdefault(split, []).append((path, content))
    read = {
        split: [_read_file(images, path, content, skipped) for path, content in parts]
        for split, parts in files.items()
    }
    classes = sorted(
        {item['name'] for parts in read.values() for *_, objects in parts for item in objects}
    )
    if skipped:
        kinds = ', '.join(f'{count} of the kind {kind}' for kind, count in skipped.items())
        notes.append(f'Shapes that have no area are left out: {kinds}.')
    return {split: coco_content(parts, classes) for split, parts in read.items()}


def _read_file(
    images: Images, path: str, content: dict[str, Any], skipped: Counter[str]
) -> tuple[str, tuple[int, int], list[dict[str, Any]]]:
    name = content.get('imagePath') or PurePosixPath(path).stem
    found = images.find(str(PurePosixPath(path).parent / name.replace('\\', '/')), path)
    if found is None:
        raise UserError(
            f'image {name} of {images.root / path} is not below {images.root}: put it there'
        )
    width, height = content.get('imageWidth'), content.get('imageHeight')
    if not width or not height:
        width, height = upright_size(images.root / found)
    objects: dict[Any, dict[str, Any]] = {}
    for index, shape in enumerate(content['shapes']):
        if shape['label'] in NO_LABEL:
            continue
        try:
            outline = _outline(shape, (width, height))
        except (KeyError, TypeError, ValueError, OSError, binascii.Error):
            raise UserError(
                f'{images.root / path} has a shape, number {index + 1}, that cannot be read: mend '
                'it, or take it out'
            ) from None
        if outline is None:
            skipped[shape.get('shape_type', 'unknown')] += 1
            continue
        group = shape.get('group_id')
        key = ('alone', index) if group is None else (shape['label'], group)
        if isinstance(outline, dict):
            objects[('alone', index)] = dict(name=shape['label'], segmentation=outline)
        else:
            grouped = objects.setdefault(key, dict(name=shape['label'], segmentation=[]))
            grouped['segmentation'].append(outline)
    return found, (width, height), list(objects.values())


def _outline(shape: dict[str, Any], size: tuple[int, int]) -> list[float] | dict | None:
    """Polygon or run lengths of a shape; None of one without area."""
    points = [(float(x), float(y)) for x, y in shape['points']]
    kind = shape.get('shape_type') or 'polygon'
    if kind == 'polygon' and len(points) > 2:
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
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        part = np.asarray(image) > 0
    width, height = size
    whole = np.zeros((height, width), np.uint8, order='F')
    x, y = round(corner[0]), round(corner[1])
    target = whole[y : y + part.shape[0], x : x + part.shape[1]]
    target[:] = part[: target.shape[0], : target.shape[1]]
    encoded = run_lengths.encode(whole)
    return dict(size=encoded['size'], counts=encoded['counts'].decode())
