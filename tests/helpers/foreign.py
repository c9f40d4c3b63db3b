"""Small data sets as other programs write them: two images or four with a box of each class."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 80
# Image -> (class, box as x, y, width, height) of its objects.
OBJECTS: dict[str, list[tuple[str, list[int]]]] = {
    'eins zwei.jpg': [('bolt', [10, 20, 30, 40]), ('nut', [50, 8, 24, 32])],
    'größe.JPG': [('nut', [4, 40, 40, 32])],
    '画像.jpg': [('bolt', [48, 16, 40, 24])],
    'four.png': [('bolt', [8, 8, 64, 40]), ('nut', [16, 56, 32, 16])],
}
TRAIN, VAL = list(OBJECTS)[:2], list(OBJECTS)[2:]


def write_images(folder: Path, names: list[str]) -> None:
    """Write images of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)


def corners(box: list[int]) -> list[int]:
    """The box as a polygon."""
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def write_text(path: Path, text: str, encoding: str = 'utf-8') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content))


def coco(
    names: list[str],
    categories: list[dict[str, Any]],
    prefix: str = '',
    first: int = 1,
    **changes: Callable[[dict[str, Any]], Any],
) -> dict[str, Any]:
    """A file in COCO format; ``changes`` make the values of an annotation's keys."""
    ids = {item['name']: item['id'] for item in categories}
    images, annotations = [], []
    for image_id, name in enumerate(names, first):
        images.append(dict(id=image_id, file_name=prefix + name, width=WIDTH, height=HEIGHT))
        for label, box in OBJECTS[name]:
            item: dict[str, Any] = dict(
                id=len(annotations) + first,
                image_id=image_id,
                category_id=ids[label],
                bbox=box,
                area=box[2] * box[3],
                iscrowd=0,
                segmentation=[corners(box)],
            )
            item.update({key: change(item) for key, change in changes.items()})
            annotations.append(item)
    return dict(images=images, annotations=annotations, categories=categories)


def write_roboflow(root: Path) -> None:
    """Roboflow: a file beside the images of each split; the project is the first category."""
    categories = [
        dict(id=0, name='parts', supercategory='none'),
        dict(id=1, name='bolt', supercategory='parts'),
        dict(id=2, name='nut', supercategory='parts'),
    ]
    for split, names in (('train', TRAIN), ('valid', VAL)):
        write_images(root / split, names)
        write_json(root / split / '_annotations.coco.json', coco(names, categories, first=0))


def write_cvat(root: Path) -> None:
    """CVAT, "COCO 1.0": one file for all images."""
    categories = [dict(id=1, name='bolt', supercategory=''), dict(id=2, name='nut')]
    write_images(root / 'images' / 'default', list(OBJECTS))
    content = coco(
        list(OBJECTS), categories, attributes=lambda _: dict(occluded=False, rotation=0.0)
    )
    write_json(root / 'annotations' / 'instances_default.json', content)


def write_label_studio(root: Path) -> None:
    """Label Studio on Windows: result.json, all ids from 0, backslashes in names."""
    categories = [dict(id=0, name='bolt'), dict(id=1, name='nut')]
    write_images(root / 'images', list(OBJECTS))
    content = coco(list(OBJECTS), categories, 'images\\', first=0, ignore=lambda _: 0)
    write_json(root / 'result.json', content)


def write_via(root: Path) -> None:
    """VGG Image Annotator: one file beside the images, flat polygons, ids of images as strings."""
    categories = [dict(id=1, name='bolt', supercategory='part'), dict(id=2, name='nut')]
    write_images(root, list(OBJECTS))
    content = coco(
        list(OBJECTS),
        categories,
        first=0,
        image_id=lambda item: str(item['image_id']),
        segmentation=lambda item: item['segmentation'][0],
    )
    for image in content['images']:
        image.update(width=0, height=0)
    write_json(root / 'via_project_coco.json', content)


def write_labelme_coco(root: Path) -> None:
    """The script in labelme: annotations.json, ids from 0, a class for what is no object."""
    categories = [
        dict(id=0, name='_background_', supercategory=None),
        dict(id=1, name='bolt', supercategory=None),
        dict(id=2, name='nut', supercategory=None),
    ]
    write_images(root / 'JPEGImages', list(OBJECTS))
    content = coco(list(OBJECTS), categories, 'JPEGImages/', first=0)
    write_json(root / 'annotations.json', content)


def write_labelme(root: Path) -> None:
    """One labelme file for each image, beside it."""
    write_images(root, list(OBJECTS))
    for name, objects in OBJECTS.items():
        shapes = []
        for label, box in objects:
            points = np.reshape(corners(box), (4, 2)).tolist()
            kind = 'polygon' if label == 'bolt' else 'rectangle'
            shape = dict(label=label, points=points if kind == 'polygon' else points[::2])
            shapes.append(dict(shape, group_id=None, shape_type=kind, flags={}))
        shapes.append(dict(label='bolt', points=[[5, 5]], group_id=None, shape_type='point'))
        content = dict(version='5.4.1', flags={}, shapes=shapes, imagePath=name, imageData=None)
        content.update(imageHeight=HEIGHT, imageWidth=WIDTH)
        write_json((root / name).with_suffix('.json'), content)


def yolo_rows(name: str, polygons: bool) -> str:
    """Lines of a label file; with polygons the last object still has a box."""
    rows = []
    for label, (x, y, width, height) in OBJECTS[name]:
        values = [x + width / 2, y + height / 2, width, height]
        if polygons and label == 'bolt':
            values = corners([x, y, width, height])
        sides = [WIDTH, HEIGHT] * (len(values) // 2)
        shares = [value / side for value, side in zip(values, sides, strict=True)]
        rows.append(' '.join(map(str, [['bolt', 'nut'].index(label), *shares])))
    return '\r\n'.join(rows) + '\n'


def write_yolo(root: Path, polygons: bool = False) -> None:
    """YOLO as Roboflow writes it: paths that begin one folder too high, names in a list."""
    for split, names in (('train', TRAIN), ('valid', VAL)):
        write_images(root / split / 'images', names)
        for name in names:
            label = (root / split / 'labels' / name).with_suffix('.txt')
            write_text(label, yolo_rows(name, polygons))
    write_text(
        root / 'data.yaml',
        "train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['bolt', 'nut']\n",
        'utf-8-sig',
    )


def write_yolo_polygons(root: Path) -> None:
    """The same with polygons and boxes mixed."""
    write_yolo(root, polygons=True)


def write_yolo_lists(root: Path) -> None:
    """YOLO as ultralytics describes it: lists of images of another computer, numbered names."""
    for folder in ('images', 'labels'):
        (root / folder).mkdir(parents=True)
    for split, names in (('train', TRAIN), ('val', VAL)):
        write_images(root / 'images' / split, names)
        lines = [f'/home/anna/parts/images/{split}/{name}' for name in names]
        write_text(root / f'{split}.txt', '\n'.join(lines))
        for name in names:
            label = (root / 'labels' / split / name).with_suffix('.txt')
            write_text(label, yolo_rows(name, False))
    write_images(root / 'images' / 'train', ['nothing.jpg'])
    with (root / 'train.txt').open('a', encoding='utf-8') as file:
        file.write('\n./images/train/nothing.jpg')
    names = 'names:\n  0: bolt\n  1: nut\n'
    write_text(root / 'parts.yaml', f'path: .\ntrain: train.txt\nval: val.txt\n{names}')


def write_voc(root: Path) -> None:
    """Pascal VOC as labelImg writes it, with lists; a program wrote no suffix, another no size."""
    write_images(root / 'JPEGImages', list(OBJECTS))
    for index, (name, objects) in enumerate(OBJECTS.items()):
        items = ''.join(
            f'<object><name>{label}</name><pose>Unspecified</pose><truncated>0</truncated>'
            f'<difficult>0</difficult><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>'
            f'<xmax>{x + width}</xmax><ymax>{y + height}.0</ymax></bndbox></object>'
            for label, (x, y, width, height) in objects
        )
        written = Path(name).stem if index == 0 else name
        size = (0, 0) if index == 1 else (WIDTH, HEIGHT)
        write_text(
            (root / 'Annotations' / name).with_suffix('.xml'),
            f'<annotation><folder>JPEGImages</folder><filename>{written}</filename><size>'
            f'<width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>{items}'
            '</annotation>',
        )
    for split, names in (('train', TRAIN), ('val', VAL)):
        stems = [Path(name).stem for name in names]
        write_text(root / 'ImageSets' / 'Main' / f'{split}.txt', '\n'.join(stems))


# Program -> what writes its data, whether objects have masks, and whether there are splits.
DIALECTS: dict[str, tuple[Callable[[Path], None], bool, bool]] = {
    'roboflow': (write_roboflow, True, True),
    'cvat': (write_cvat, True, False),
    'label_studio': (write_label_studio, True, False),
    'via': (write_via, True, False),
    'labelme_coco': (write_labelme_coco, True, False),
    'labelme': (write_labelme, True, False),
    'yolo': (write_yolo, False, True),
    'yolo_polygons': (write_yolo_polygons, True, True),
    'yolo_lists': (write_yolo_lists, False, True),
    'voc': (write_voc, False, True),
}
