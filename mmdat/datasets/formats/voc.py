"""Pascal VOC's boxes: an XML file for each image."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path, PurePosixPath
from typing import Any

from mmdat.errors import UserError

from .files import SPLITS, Images, find_each, image_sets, split_of, upright_size
from .library import convert, labelformat


def read_voc(images: Images, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Read Pascal VOC's boxes, and return the content of a COCO file for each split.

    The splits are those of ``ImageSets/Main``, or else of the folders.

    Raises:
        UserError: If a file cannot be read, or if its image is not there.
    """
    trees: dict[str, ET.Element] = {}
    for path in images.files:
        if path.lower().endswith('.xml'):
            root = _parse(images.root / path)
            if root.tag == 'annotations' and {'image', 'track'} & {item.tag for item in root}:
                raise UserError(
                    f'{images.root / path} is in the format "CVAT for images" or "for '
                    'video": export the task as "COCO 1.0", which has all its shapes'
                )
            if root.tag == 'annotation':
                trees[path] = root
    if not trees:
        return {}
    listed = image_sets(images, 'Main')
    splits: dict[str, list[str]] = {}
    for path in trees:
        split = listed.get(PurePosixPath(path).stem) if listed else None
        if listed and split is None:
            continue
        splits.setdefault(split or split_of(path) or SPLITS[0], []).append(path)
    if left := len(trees) - sum(map(len, splits.values())):
        notes.append(f'{left} images are in no list of ImageSets/Main: they are left out.')
    turned: list[str] = []
    for path, tree in trees.items():
        for item in tree.findall('object'):
            _check_object(item, images.root / path)
            if _turn(item):
                turned.append(path)
    if turned:
        notes.append(
            f'{len(turned)} boxes have an xmin above their xmax, or ymin above ymax, such as in '
            f'{turned[0]}: the two are exchanged.'
        )
    names = sorted({_name(item) for tree in trees.values() for item in tree.findall('object')})
    found = find_each(
        images,
        {
            path: (trees[path].findtext('filename') or '').strip() or PurePosixPath(path).stem
            for paths in splits.values()
            for path in paths
        },
    )
    return {
        split: _convert(images.root, {path: (found[path], trees[path]) for path in paths}, names)
        for split, paths in splits.items()
    }


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


def _name(item: ET.Element) -> str:
    return (item.findtext('name') or '').strip()


def _convert(
    root: Path, trees: dict[str, tuple[str, ET.Element]], names: list[str]
) -> dict[str, Any]:
    """Convert files, each with its image and what it holds."""
    paths = [path for path, _ in trees.values()]
    sizes = [_size(tree) or upright_size(root / path) for path, tree in trees.values()]

    def write(folder: Path) -> Any:
        for number, ((_, tree), size) in enumerate(zip(trees.values(), sizes, strict=True)):
            copy = ET.Element('annotation')
            ET.SubElement(copy, 'filename').text = str(number)
            element = ET.SubElement(copy, 'size')
            for side, value in zip(('width', 'height'), size, strict=True):
                ET.SubElement(element, side).text = str(value)
            for item in tree.findall('object'):
                numbered = ET.SubElement(copy, 'object')
                ET.SubElement(numbered, 'name').text = str(names.index(_name(item)))
                numbered.extend(item.findall('bndbox'))
            ET.ElementTree(copy).write(folder / f'{number}.xml', encoding='utf-8')
        return labelformat().PascalVOCObjectDetectionInput(
            folder, ','.join(str(number) for number in range(len(names)))
        )

    return convert(write, paths, sizes, names)


def _check_object(item: ET.Element, path: Path) -> None:
    """Refuse an object without a name, or without a box of four numbers."""
    if not _name(item):
        raise UserError(f'{path} has an object without a name: give it one, or take it out')
    try:
        for side in ('xmin', 'ymin', 'xmax', 'ymax'):
            float(item.findtext(f'bndbox/{side}') or 'none')
    except ValueError:
        raise UserError(
            f'{path} has an object {item.findtext("name")!r} without a box of four numbers '
            '(bndbox): mend it, or take it out'
        ) from None


def _turn(item: ET.Element) -> bool:
    """Bring the sides of a box into order; say whether they were not."""
    turned = False
    for axis in 'xy':
        low, high = (item.find(f'bndbox/{axis}{end}') for end in ('min', 'max'))
        assert low is not None and high is not None  # as checked
        if float(low.text or 0) > float(high.text or 0):
            low.text, high.text = high.text, low.text
            turned = True
    return turned


def _size(tree: ET.Element) -> tuple[int, int] | None:
    """Width and height that a file gives, if it does; some programs write 0."""
    try:
        width, height = (int(float(tree.findtext(f'size/{side}') or 0)) for side in (
            'width', 'height'))  # fmt: skip
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None
