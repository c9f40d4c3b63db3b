"""Pascal VOC's boxes: an XML file for each image, in which some programs write outlines, too."""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mmdat.errors import UserError

from .content import coco_content
from .files import SPLITS, Folder, find_each, image_sets, split_of, upright_size


def read_voc(folder: Folder) -> dict[str, dict[str, Any]]:
    """Read Pascal VOC's boxes and outlines, and return the content of a COCO file for each split.

    The splits are those of ``ImageSets/Main``, or else of the folders.

    Raises:
        UserError: If a file cannot be read, or if its image is not there.
    """
    files: dict[str, _File] = {}
    for path in folder.files:
        if path.lower().endswith('.xml'):
            root, where = _parse(folder.root / path), folder.root / path
            if root.tag == 'annotations' and {'image', 'track'} & {item.tag for item in root}:
                raise UserError(
                    f'{where} is in the format "CVAT for images" or "for video": export the task '
                    'as "COCO 1.0", which has all its shapes'
                )
            if root.tag == 'annotation':
                name = (root.findtext('filename') or '').strip() or PurePosixPath(path).stem
                # LabelMe marks objects as deleted.
                items = [x for x in root.findall('object') if x.findtext('deleted') != '1']
                files[path] = _File(name, _size(root), [_object(item, where) for item in items])
    if not files:
        return {}
    listed = image_sets(folder, 'Main')
    splits: dict[str, list[str]] = {}
    for path in files:
        split = listed.get(PurePosixPath(path).stem) if listed else None
        if listed and split is None:
            continue
        splits.setdefault(split or split_of(path) or SPLITS[0], []).append(path)
    total = sum(len(file.objects) for file in files.values())
    turned = [path for path, file in files.items() for item in file.objects if item['is_turned']]
    if 2 * len(turned) > total:
        raise UserError(
            f'{len(turned)} of {total} boxes have an xmin above their xmax, or ymin above ymax, '
            f'such as in {folder.root / turned[0]}: write corners, if xmax and ymax hold the width '
            'and height'
        )
    if turned:
        folder.note(
            f'{len(turned)} boxes have an xmin above their xmax, or ymin above ymax, such as in '
            f'{turned[0]}: the two are exchanged.'
        )
    used = [path for paths in splits.values() for path in paths]
    if difficult := sum(item['is_difficult'] for path in used for item in files[path].objects):
        folder.note(
            f'{difficult} objects are marked as difficult (difficult is 1): they are learned and '
            "looked for as all others, though Pascal VOC's own figures ignore them."
        )
    names = sorted({item['name'] for file in files.values() for item in file.objects})
    found = find_each(folder, {path: files[path].image for path in used})
    return {
        split: coco_content(
            [
                (
                    found[path],
                    files[path].size or upright_size(folder.root / found[path]),
                    files[path].objects,
                )
                for path in paths
            ],
            names,
        )
        for split, paths in splits.items()
    }


class _File(NamedTuple):
    """What is read of a file: the name and size of its image, and its objects."""

    image: str
    size: tuple[int, int] | None
    objects: list[dict[str, Any]]


def _parse(path: Path) -> ET.Element:
    """Parse a file in the encoding that it declares, or else in UTF-8."""
    try:
        content = path.read_bytes()
        declared = re.match(rb'\s*<\?xml[^>]*encoding=["\']([\w.-]+)', content)
        try:
            # A declaration that is not ASCII is UTF-16, which the parser sees by itself.
            return ET.fromstring(content.decode(declared[1].decode()) if declared else content)
        except (LookupError, UnicodeDecodeError):
            return ET.fromstring(content.decode('utf-8'))
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror})') from None
    except UnicodeDecodeError:
        raise UserError(
            f'{path} is neither in the encoding that it declares nor in UTF-8: save it in UTF-8'
        ) from None
    except ET.ParseError as error:
        raise UserError(f'{path} is not XML, or declares no encoding ({error})') from None


def _object(item: ET.Element, path: Path) -> dict[str, Any]:
    """Read name, box and outline of an object, and whether it is turned round or difficult.

    An outline, as Roboflow and LabelMe write it, may do without a box.

    Raises:
        UserError: If it has no name, or neither a box of four numbers nor an outline.
    """
    name = (item.findtext('name') or '').strip()
    if not name:
        raise UserError(f'{path} has an object without a name: give it one, or take it out')
    try:
        rings = [ring for ring in map(_ring, item.iterfind('polygon')) if ring]
        has_box = not rings or item.find('bndbox') is not None
        points = [number for ring in rings for number in ring]
        xs, ys = points[::2], points[1::2]
        if has_box:
            xs, ys = (
                [float(item.findtext(f'bndbox/{axis}{end}') or 'none') for end in ('min', 'max')]
                for axis in 'xy'
            )
        if not all(map(math.isfinite, xs + ys + points)):
            raise ValueError
    except ValueError:
        raise UserError(
            f'{path} has an object {name!r} without a box of four numbers (bndbox) or an outline '
            '(polygon): mend it, or take it out'
        ) from None
    is_turned = has_box and (xs[0] > xs[1] or ys[0] > ys[1])
    is_difficult = (item.findtext('difficult') or '').strip() == '1'
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return dict(
        name=name, bbox=box, segmentation=rings, is_turned=is_turned, is_difficult=is_difficult
    )


def _ring(polygon: ET.Element) -> list[float]:
    """Read x and y of a polygon's points in turn; empty if they are less than three."""
    texts = [item.text or '' for item in polygon.iter() if re.fullmatch(r'[xy]\d*', item.tag)]
    numbers = [float(text) for text in texts if text.strip()]
    return numbers if len(numbers) >= 6 and len(numbers) % 2 == 0 else []


def _size(tree: ET.Element) -> tuple[int, int] | None:
    """Width and height that a file gives, if it does; some programs write 0."""
    try:
        width, height = (int(float(tree.findtext(f'size/{side}') or 0)) for side in (
            'width', 'height'))  # fmt: skip
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None
