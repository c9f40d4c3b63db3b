#!/usr/bin/env python
"""Each config of the zoo takes a training step and a test step on small drawings.

``python tests/helpers/zoo.py [NAME ...]`` prints a table as it goes; names may have wildcards.
Parameters and multiply-accumulates (MACs) are those of one image at the size that papers give them
for.
"""

import argparse
import contextlib
import fnmatch
import gc
import json
import os
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from pycocotools import mask as mask_api

from mmdat.analysis.flops import count_complexity
from mmdat.analysis.model import image_shape
from mmdat.apis import train
from mmdat.datasets.shapes.drawing import draw_scene

CONFIGS = Path(__file__).parents[2] / 'configs'
SIZE = 128
NUM_IMAGES = 2
SEGMENTED = (512, 2048)  # the image of which papers count the cost of segmentation
COUNTED: dict[str, dict[str, Any]] = {}  # by the model and the shape
# What the transforms of the papers' pipelines are given instead of their own sizes.
SMALL_TRANSFORMS = {
    'Resize': dict(scale=(SIZE, SIZE)),
    'RandomResize': dict(scale=(SIZE, SIZE)),
    'RandomChoiceResize': dict(scales=[(SIZE, SIZE)], resize_type='Resize'),
    'RandomCrop': dict(crop_size=(SIZE // 2, SIZE // 2), crop_type='absolute'),
}


@dataclass(frozen=True)
class Steps:
    """What came of a config.

    Attributes:
        loss: Of the training step.
        train_seconds: Of the training step, with reading the images.
        test_seconds: Of the test, with reading the images.
        metrics: Of the test.
    """

    loss: float
    train_seconds: float
    test_seconds: float
    metrics: dict[str, float]


def take_steps(name: str, root: Path) -> Steps:
    """Train the config of that name for a step and test the model on what ``draw_data`` wrote."""
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    shrink(cfg)
    path = root / f'{name}.py'
    cfg.dump(path)
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):  # what pycocotools prints
        runner = train(str(path), str(root / 'work_dirs' / name))
        middle = time.perf_counter()
        metrics = runner.test()
    end = time.perf_counter()
    scalars = runner.message_hub.log_scalars
    return Steps(
        float(scalars['train/loss'].data[0][-1]),
        middle - start,
        end - middle,
        {key: float(value) for key, value in metrics.items()},
    )


def cost(name: str) -> dict[str, Any]:
    """Parameters and MACs of the config of that name."""
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.model.backbone.init_cfg = None
    # Schedules differ in it, and it costs nothing: their model is counted once.
    cfg.model.backbone.pop('drop_path_rate', None)
    shape = SEGMENTED if name.endswith('_ade20k') else image_shape(cfg)
    model = json.dumps([cfg.model, shape], default=str)
    if model not in COUNTED:
        COUNTED[model] = asdict(count_complexity(cfg, shape))
    return COUNTED[model]


def draw_data(root: Path) -> None:
    """Drawings in the layouts of COCO, ADE20K and ImageNet, in folders that the configs find."""
    categories = CocoDataset.METAINFO['classes']
    for folder, split in (
        ('coco', 'train2017'),
        ('coco', 'val2017'),
        ('ade20k', 'training'),
        ('ade20k', 'validation'),
        ('imagenet', 'train'),
        ('imagenet', 'val'),
    ):
        images, annotations, lines = [], [], []
        for index in range(NUM_IMAGES):
            scene = draw_scene(np.random.default_rng(index), SIZE)
            name = f'{index}.jpg'
            if folder == 'ade20k':
                _write(root / folder / 'images' / split / name, scene.image)
                labels = np.zeros(scene.image.shape[:2], np.uint8)
                for instance in scene.instances:
                    labels[instance.mask] = instance.label + 1
                _write(root / folder / 'annotations' / split / f'{index}.png', labels)
                continue
            _write(root / folder / split / name, scene.image)
            lines.append(f'{name} {index}')
            images.append(dict(id=index, file_name=name, height=SIZE, width=SIZE))
            for instance in scene.instances:
                rle = mask_api.encode(np.asfortranarray(instance.mask, np.uint8))
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=index,
                        category_id=instance.label + 1,
                        iscrowd=0,
                        bbox=mask_api.toBbox(rle).tolist(),
                        area=int(mask_api.area(rle)),
                        segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
                    )
                )
        if folder == 'coco':
            target = root / folder / 'annotations' / f'instances_{split}.json'
            text = json.dumps(
                dict(
                    images=images,
                    annotations=annotations,
                    categories=[
                        dict(id=number, name=name)
                        for number, name in enumerate(categories, start=1)
                    ],
                )
            )
        elif folder == 'imagenet':
            target = root / folder / 'meta' / f'{split}.txt'
            text = '\n'.join(lines)
        else:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def environment(root: Path) -> dict[str, str]:
    """What tells the configs where the data are."""
    return {f'{name.upper()}_ROOT': str(root / name) for name in ('coco', 'ade20k', 'imagenet')}


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def shrink(cfg: Config) -> None:
    """One step without a checkpoint, of two small images, from random weights."""
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1, val_interval=10)
    cfg.param_scheduler = []
    cfg.pop('runner_type', None)  # of several processes
    cfg.pop('strategy', None)
    cfg.default_hooks.checkpoint = None
    cfg.log_level = 'ERROR'
    cfg.default_hooks.logger.interval = 1
    cfg.model.backbone.init_cfg = None
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=NUM_IMAGES)
        loader.sampler = dict(type='DefaultSampler', shuffle=False)
        loader.batch_sampler = None
        if cfg.default_scope != 'mmpretrain':
            _shrink_transforms(loader.dataset.pipeline)
    if cfg.model.get('as_two_stage'):
        cfg.model.num_queries = 100  # no more than there are positions on small maps
    _take_few_proposals(cfg.model)
    preprocessor = cfg.model.get('data_preprocessor', {})
    if preprocessor.get('size'):
        preprocessor.size = (SIZE, SIZE)
    for augment in preprocessor.get('batch_augments') or []:
        augment.size = (SIZE, SIZE)


def _take_few_proposals(value: Any) -> None:
    """In nested parts of a detector."""
    if isinstance(value, dict):
        if value.get('type') == 'RandomSampler':
            value.update(num=16)
        if 'max_per_img' in value:
            value.update(max_per_img=20)
        value = list(value.values())
    for item in value if isinstance(value, (list, tuple)) else ():
        _take_few_proposals(item)


def _shrink_transforms(transforms: Any) -> None:
    """In nested lists of them."""
    for transform in transforms:
        if isinstance(transform, list):
            _shrink_transforms(transform)
            continue
        small = SMALL_TRANSFORMS.get(transform['type'], {})
        if 'cat_max_ratio' in transform:  # mmsegmentation's crop
            small = dict(crop_size=(SIZE, SIZE))
        elif 'max_size' in transform:  # resizes the shorter side
            small = dict(scales=[SIZE])
        transform.update(small)
        _shrink_transforms(transform.get('transforms', []))


def main() -> None:
    """Run the configs that were asked for; fail if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', default=['*'], help='of configs, or patterns')
    parser.add_argument('--out', type=Path, help='file for the results, as JSON')
    args = parser.parse_args()
    names = sorted(
        path.stem
        for path in CONFIGS.glob('*.py')
        if any(fnmatch.fnmatch(path.stem, pattern) for pattern in args.names)
        and not path.stem.endswith('_shapes')
    )
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_data(root)
        os.environ.update(environment(root))
        print(f'{"config":36} {"parameters":>12} {"MACs":>8} {"loss":>8} {"train":>8} {"test":>8}')
        for name in names:
            try:
                steps, costs = take_steps(name, root), cost(name)
            except Exception:
                traceback.print_exc()
                print(f'{name:36} FAILED', flush=True)
                continue
            print(
                f'{name:36} {costs["parameters"] / 1e6:10.1f} M {costs["macs"] / 1e9:6.1f} G '
                f'{steps.loss:8.3f} {steps.train_seconds:6.1f} s {steps.test_seconds:6.1f} s',
                flush=True,
            )
            results[name] = dict(asdict(steps), **costs)
            if args.out:  # after each, so that a run that is cut short is not lost
                args.out.write_text(json.dumps(results, indent=1) + '\n')
            gc.collect()
    print(f'{len(results)} of {len(names)} configs trained and were tested')
    sys.exit(len(results) < len(names))


if __name__ == '__main__':
    main()
