"""Compute what an annotation in COCO format lacks, as programs write it in many dialects."""

import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

SHORT = 8  # letters of compressed run lengths, of which there is just one
LARGEST_ID = 2**63 - 1  # numpy's integers, in which pycocotools sorts ids


def are_finite(numbers: object) -> bool:
    """Tell whether a value is a list of finite numbers, by its sum, which is fastest."""
    try:
        return isinstance(numbers, list) and math.isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False


def add_file_name(image: dict) -> bool:
    """Name the file of an image by the end of its ``coco_url`` if it has no name, as LVIS's.

    Example:
        >>> image = dict(coco_url='http://images.cocodataset.org/val2017/000000000139.jpg')
        >>> add_file_name(image), image['file_name']
        (True, 'val2017/000000000139.jpg')
    """
    url = image.get('coco_url')
    if 'file_name' in image or not (url and isinstance(url, str)):
        return False
    image['file_name'] = '/'.join(url.split('/')[-2:])
    return True


def as_number(value: Any) -> Any:
    """Read a number that is written as text or as a float without need; others stay.

    Example:
        >>> as_number('640'), as_number('12.5'), as_number(3.0), as_number('a')
        (640, 12.5, 3, 'a')
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def one_type_of_id(ids: Sequence[Any]) -> Callable[[Any], Any]:
    """Return what turns ids into integers, or into text if one of them is no integer.

    pycocotools sorts ids, which those of two types cannot be.

    Example:
        >>> convert = one_type_of_id([1, '2', 3.0])
        >>> convert('2'), convert(1)
        (2, 1)
        >>> one_type_of_id([1, 'a'])(1)
        '1'
    """
    if all(type(value) is int and abs(value) <= LARGEST_ID for value in ids):
        return _as_integer
    integers = [_as_integer(value) for value in ids]
    if all(isinstance(value, int) and abs(value) <= LARGEST_ID for value in integers):
        return _as_integer
    return lambda value: str(as_number(value)) if isinstance(value, (int, float)) else value


def _as_integer(value: Any) -> Any:
    if type(value) is int:
        return value
    number = as_number(value)
    # Text such as '007' is a name: it would not be written so as a number.
    return number if isinstance(value, float) or str(number) == value else value


def plain_name(name: str) -> str:
    """A name without what is often written in several ways: case, blanks and signs.

    Example:
        >>> plain_name('Stop_sign '), plain_name('stop sign')
        ('stopsign', 'stopsign')
    """
    letters = filter(str.isalnum, unicodedata.normalize('NFKC', name).casefold())
    return ''.join(letters) or name


def polygons_of(segmentation: Any) -> Any:
    """Write polygons as COCO does, a list ``[x, y, x, y, ...]`` each; other values stay.

    Example:
        >>> polygons_of([0, 0, 4, 0, 4, 3])  # one polygon without its list
        [[0, 0, 4, 0, 4, 3]]
        >>> polygons_of([[[0, 0], [4, 0], [4, 3]], []])  # a list of points, and nothing
        [[0, 0, 4, 0, 4, 3]]
        >>> polygons_of([[0, 0], ['4', 0], [4, 3]])
        [[0, 0, 4, 0, 4, 3]]
    """
    if not isinstance(segmentation, list):
        return segmentation
    if segmentation and not isinstance(segmentation[0], list):
        segmentation = [segmentation]
    elif len(segmentation) > 2 and all(_is_point(part) for part in segmentation):
        segmentation = [[value for point in segmentation for value in point]]
    polygons = []
    for polygon in segmentation:
        if polygon and isinstance(polygon, list) and all(_is_point(point) for point in polygon):
            polygon = [value for point in polygon for value in point]
        if isinstance(polygon, list):
            polygon = [as_number(value) for value in polygon]
        if polygon != []:
            polygons.append(polygon)
    return polygons


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def box_of(annotation: dict) -> Any:
    """Compute the box ``[x, y, width, height]`` of an object whose box is text or missing."""
    box, segmentation = annotation.get('bbox'), annotation.get('segmentation')
    if box or not segmentation:
        return [as_number(value) for value in box] if isinstance(box, list) else box
    if isinstance(segmentation, dict):
        from pycocotools import mask as mask_api

        return mask_api.toBbox(_compressed(segmentation)).tolist()
    left, right = _ends(segmentation, 0)
    top, bottom = _ends(segmentation, 1)
    return [left, top, right - left, bottom - top]


def overlap(box: list[float], other: list[float]) -> float:
    """Intersection over union of two boxes ``[x, y, width, height]``; 0 if they have no area.

    Example:
        >>> overlap([0, 0, 2, 2], [1, 0, 2, 2])
        0.3333333333333333
    """
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    shared = max(0, width) * max(0, height)
    return shared and shared / (box[2] * box[3] + other[2] * other[3] - shared)


def _ends(polygons: list[list[float]], axis: int) -> tuple[float, float]:
    values = [value for polygon in polygons for value in polygon[axis::2]]
    return min(values), max(values)


def area_of(annotation: dict) -> float:
    """Compute the area of an object in pixels, of its segmentation or else of its box."""
    _, _, width, height = annotation['bbox']
    segmentation = annotation.get('segmentation')
    area = 0.0
    if isinstance(segmentation, dict):
        from pycocotools import mask as mask_api

        area = float(mask_api.area(_compressed(segmentation)))
    elif segmentation:
        area = sum(map(_polygon_area, segmentation))
    box_area = max(0, width) * max(0, height)
    # Polygons may overlap each other.
    return min(area, box_area) or box_area


def has_no_pixel(segmentation: dict) -> bool:
    """Whether run lengths are of a mask without a pixel; of compressed ones, short ones alone.

    Example:
        >>> has_no_pixel(dict(size=[4, 4], counts=[16])), has_no_pixel(dict(counts=[0, 16]))
        (True, False)
    """
    counts = segmentation['counts']
    if isinstance(counts, list):
        return not any(counts[1::2])
    from pycocotools import mask as mask_api

    return len(counts) < SHORT and not mask_api.area(segmentation)


def run_lengths(counts: str) -> list[int]:
    """Read run lengths that pycocotools compressed; none if they break off or are other text.

    A character holds five bits of a number, lowest first, and one that tells whether more follow.
    From the fourth on, a number is added to the last but one.

    Example:
        >>> run_lengths('52203'), run_lengths('5P')
        ([5, 2, 2, 2, 5], [])
    """
    runs: list[int] = []
    number = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return []
        number |= (code & 31) << shift
        shift += 5
        if code < 32:
            number -= (code >> 4) << shift  # a sign bit
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return [] if shift else runs


def _compressed(segmentation: dict) -> dict:
    from pycocotools import mask as mask_api

    if isinstance(segmentation['counts'], str):
        return segmentation
    return mask_api.frPyObjects(segmentation, *segmentation['size'])


def _polygon_area(polygon: list[float]) -> float:
    xs, ys = polygon[::2], polygon[1::2]
    following = zip(xs[1:] + xs[:1], ys[1:] + ys[:1], strict=False)
    pairs = zip(xs, ys, following, strict=False)
    return abs(sum(x * next_y - next_x * y for x, y, (next_x, next_y) in pairs)) / 2
