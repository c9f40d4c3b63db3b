#!/usr/bin/env python
"""Each config of the zoo takes a training step and a test step on small drawings.

It fails where a trained parameter has no gradient then: several processes would stop.

``python tests/helpers/zoo.py [NAME ...]`` prints a table as it goes; names may have wildcards. With
``--costs`` it counts parameters, multiply-accumulates (MACs) and memory instead, of one image at
the size that papers give them for, and writes them to ``benchmarks/results/zoo_cpu.json``.
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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mmengine.config.config
import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mmdat.analysis.flops import count_complexity
from mmdat.analysis.model import image_shape
from mmdat.apis import train
from mmdat.datasets.formats.content import coco_content
from mmdat.datasets.shapes.coco import annotated
from mmdat.datasets.shapes.drawing import Scene, draw_scene
from mmdat.datasets.shapes.files import write_image
from mmdat.datasets.shapes.segment import pixel_values
from mmdat.errors import list_first

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
COSTS = ROOT / 'benchmarks' / 'results' / 'zoo_cpu.json'
SIZE = 128
NUM_IMAGES = 2
SEGMENTED = (512, 2048)  # image size at which papers count the cost of segmentation
COUNTED: dict[str, dict[str, Any]] = {}  # cost by model and image size, as JSON
# Sizes for the transforms of the papers' pipelines, instead of their own.
SMALL_TRANSFORMS = {
    'Resize': dict(scale=(SIZE, SIZE)),
    'RandomResize': dict(scale=(SIZE, SIZE)),
    'RandomChoiceResize': dict(scales=[(SIZE, SIZE)], resize_type='Resize'),
    'RandomCrop': dict(crop_size=(SIZE // 2, SIZE // 2), crop_type='absolute'),
}


@dataclass(frozen=True)
class Steps:
    """Result of a training step and a test step.

    Attributes:
        loss: Loss of the training step.
        train_seconds: Time of the training step, with reading the images.
        test_seconds: Time of the test, with reading the images.
        metrics: Metrics of the test, by name.
        without_gradient: Names of the trained parameters that had none in the training step.
    """

    loss: float
    train_seconds: float
    test_seconds: float
    metrics: dict[str, float]
    without_gradient: list[str]


def take_steps(name: str, root: Path) -> Steps:
    """Train the config of that name for a step and test the model, on what ``draw_data`` wrote."""
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    shrink(cfg)
    path = root / f'{name}.py'
    cfg.dump(path)
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):  # what pycocotools prints
        with parameters_with_gradient() as reached:
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
        [
            parameter_name
            for parameter_name, parameter in runner.model.named_parameters()
            if parameter.requires_grad and parameter not in reached
        ],
    )


@contextlib.contextmanager
def parameters_with_gradient() -> Iterator[set[Tensor]]:
    """Collect the parameters that have a gradient, be it zero, as an optimizer takes its step."""
    reached: set[Tensor] = set()

    def collect(optimizer: Optimizer, *_: Any) -> None:
        parameters = [value for group in optimizer.param_groups for value in group['params']]
        reached.update(value for value in parameters if value.grad is not None)

    handle = register_optimizer_step_pre_hook(collect)
    try:
        yield reached
    finally:
        handle.remove()


def cost(name: str) -> dict[str, Any]:
    """Parameters, MACs and memory of the config of that name, as JSON has them."""
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.model.backbone.init_cfg = None
    # It differs between schedules but costs nothing, so that their common model is counted once.
    cfg.model.backbone.pop('drop_path_rate', None)
    shape = SEGMENTED if name.endswith('_ade20k') else image_shape(cfg)
    model = json.dumps([cfg.model, shape], default=str)
    if model not in COUNTED:
        COUNTED[model] = json.loads(json.dumps(asdict(count_complexity(cfg, shape))))
    return COUNTED[model]


def write_cost(name: str) -> None:
    """Write the cost of a config among those of the others."""
    costs = json.loads(COSTS.read_text()) | {name: cost(name)}
    COSTS.write_text(json.dumps(costs, indent=1, sort_keys=True) + '\n')
    print(f'{name:44} {costs[name]["peak_memory"] / 1e9:8.3f} GB', flush=True)


def draw_data(root: Path) -> None:
    """Draw images in the layouts of COCO, ADE20K and ImageNet, in folders that the configs find."""
    scenes = {
        f'{index}.jpg': draw_scene(np.random.default_rng(index), SIZE)
        for index in range(NUM_IMAGES)
    }
    for split in ('train2017', 'val2017'):
        _write_images(root / 'coco' / split, scenes)
        classes = CocoDataset.METAINFO['classes']
        images = [annotated(name, scene, classes) for name, scene in scenes.items()]
        content = coco_content(images, classes)
        _write_text(root / 'coco' / 'annotations' / f'instances_{split}.json', json.dumps(content))
    for split in ('training', 'validation'):
        _write_images(root / 'ade20k' / 'images' / split, scenes)
        masks = root / 'ade20k' / 'annotations' / split
        masks.mkdir(parents=True)
        for name, scene in scenes.items():
            write_image((masks / name).with_suffix('.png'), pixel_values(scene))
    for split in ('train', 'val'):
        _write_images(root / 'imagenet' / split, scenes)
        lines = [f'{name} {index}' for index, name in enumerate(scenes)]
        _write_text(root / 'imagenet' / 'meta' / f'{split}.txt', '\n'.join(lines))


def environment(root: Path) -> dict[str, str]:
    """Environment variables that tell the configs where :func:`draw_data` drew."""
    return {f'{name.upper()}_ROOT': str(root / name) for name in ('coco', 'ade20k', 'imagenet')}


def _write_images(folder: Path, scenes: dict[str, Scene]) -> None:
    folder.mkdir(parents=True)
    for name, scene in scenes.items():
        write_image(folder / name, scene.image)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def shrink(cfg: Config) -> None:
    """Reduce a config to a step on two small images, from random weights, without a checkpoint."""
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
    """Lower the numbers of proposals and detections in all nested parts of a detector."""
    if isinstance(value, dict):
        if value.get('type') == 'RandomSampler':
            value.update(num=16)
        if 'max_per_img' in value:
            value.update(max_per_img=20)
        if 'score_thr' in value:
            value.update(score_thr=0.0)  # random weights score lower than any threshold
        value = list(value.values())
    for item in value if isinstance(value, (list, tuple)) else ():
        _take_few_proposals(item)


def _shrink_transforms(transforms: Any) -> None:
    """Give transforms, also those in nested lists, small sizes."""
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
    parser.add_argument('names', nargs='*', default=['*'], help='names of configs, or patterns')
    parser.add_argument(
        '--costs', action='store_true', help=f'write what an image costs to {COSTS.name} instead'
    )
    args = parser.parse_args()
    names = sorted(
        path.stem
        for path in CONFIGS.glob('*.py')
        if any(fnmatch.fnmatch(path.stem, pattern) for pattern in args.names)
        and (args.costs or not path.stem.endswith('_shapes'))
    )
    num_passed = 0
    # To lay configs out for logs takes as long as the steps.
    mmengine.config.config.FormatCode = lambda text, **_: (text, True)
    if args.costs:
        for name in names:
            write_cost(name)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_data(root)
        os.environ.update(environment(root))
        print(f'{"config":44} {"loss":>8} {"train":>8} {"test":>8}')
        for name in names:
            try:
                steps = take_steps(name, root)
                if steps.without_gradient:
                    raise ValueError(f'no gradient has {list_first(steps.without_gradient)}')
            except Exception:
                traceback.print_exc()
                print(f'{name:44} FAILED', flush=True)
                continue
            num_passed += 1
            print(
                f'{name:44} {steps.loss:8.3f} {steps.train_seconds:6.1f} s '
                f'{steps.test_seconds:6.1f} s',
                flush=True,
            )
            gc.collect()
    print(f'{num_passed} of {len(names)} configs trained and were tested')
    sys.exit(num_passed < len(names))


if __name__ == '__main__':
    main()
