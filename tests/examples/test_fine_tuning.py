"""The examples of configs for data of one's own are what the tool writes, and train."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdat.apis import train
from mmdat.apis.new_config import new_config
from mmdat.datasets import ShapesParameters, write_shapes_coco
from mmdat.datasets.shapes.classify import write_shapes_classify
from mmdat.datasets.shapes.segment import write_shapes_segment
from mmdat.registry import MODELS

ROOT = Path(__file__).parents[2]
SCALE = (96, 96)
LOADER = dict(num_workers=0, persistent_workers=False)


def pipeline(*transforms: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(type='LoadImageFromFile'), *transforms]


MASKS = pipeline(
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=SCALE),
    dict(type='PackDetInputs'),
)
SEGMENTS = pipeline(
    dict(type='LoadAnnotations'), dict(type='Resize', scale=SCALE), dict(type='PackSegInputs')
)
NANO_WIDTHS = [16, 32, 64, 128]
# Example -> base, what draws its data, their folder, and options that make it small.
EXAMPLES: dict[str, tuple[str, Callable, str, dict[str, Any]]] = {
    'fine_tune_boxes_and_masks': (
        'mask_rcnn_dat_pp_t_coco',
        write_shapes_coco,
        'data/shapes',
        {
            'model.neck.in_channels': NANO_WIDTHS,
            'model.train_cfg.rcnn.sampler.num': 16,
            'model.test_cfg.rpn.max_per_img': 20,
            'model.test_cfg.rcnn.max_per_img': 5,
            'train_dataloader.dataset.pipeline': MASKS,
            'val_dataloader.dataset.pipeline.1.scale': SCALE,
            'train_cfg': dict(max_epochs=1, val_interval=1),
        },
    ),
    'fine_tune_mask_folders': (
        'upernet_dat_pp_t_ade20k',
        write_shapes_segment,
        'data/shapes_segment',
        {
            'model.decode_head.in_channels': NANO_WIDTHS,
            'model.decode_head.channels': 8,
            'model.auxiliary_head.in_channels': 64,
            'model.data_preprocessor.size': SCALE,
            'train_dataloader.dataset.pipeline': SEGMENTS,
            'val_dataloader.dataset.pipeline.1.scale': SCALE,
            'train_cfg': dict(max_iters=2, val_interval=2),
        },
    ),
    'fine_tune_class_folders': (
        'dat_pp_t_in1k',
        write_shapes_classify,
        'data/shapes_classify',
        {
            'model.head.in_channels': NANO_WIDTHS[-1],
            'train_cfg': dict(max_epochs=1, val_interval=1),
        },
    ),
}


@pytest.mark.parametrize('name', EXAMPLES)
def test_an_example_is_what_the_tool_writes_and_trains(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = ROOT / 'examples' / f'{name}.py'
    monkeypatch.chdir(tmp_path)
    base, write, folder, small = EXAMPLES[name]
    write(folder, ShapesParameters(train=20, val=5, size=96))
    # As somebody's own folders: synthetic ones come without names, or with lists.
    if write is write_shapes_segment:
        Path(folder, 'classes.txt').write_text('ground\nsquare\ntriangle\nring\ncross\n')
    shutil.rmtree(Path(folder, 'meta'), ignore_errors=True)
    options = {
        **small,
        'model.backbone.arch': 'nano',
        'param_scheduler': [],
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.indices': 4,
        'val_dataloader.dataset.indices': 2,
        **{
            f'{split}_dataloader.{key}': value
            for split in ('train', 'val')
            for key, value in LOADER.items()
        },
    }
    save_pretrained(example, options)
    written = tmp_path / f'{name}.py'
    base_path = str(ROOT / 'configs' / f'{base}.py')
    new_config(base_path, folder, str(written), load_from=f'{base}.pth')
    text = written.read_text().replace(f"'{ROOT}/", "'../").replace(f'{tmp_path}/', '')
    # Where lines break depends on the paths.
    assert text.replace('#', '').split() == example.read_text().replace('#', '').split()
    runner = train(str(example), str(tmp_path / 'work'), cfg_options=options)
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 2 and np.isfinite(losses).all()


def save_pretrained(example: Path, options: dict[str, Any]) -> None:
    """Write weights of the example's base, with its own classes, where the example loads them."""
    cfg = Config.fromfile(example)
    base = Config.fromfile(ROOT / 'configs' / Path(cfg.load_from).with_suffix('.py'))
    base.merge_from_dict({key: value for key, value in options.items() if key.startswith('model.')})
    with DefaultScope.overwrite_default_scope(base.default_scope):
        torch.save(dict(state_dict=MODELS.build(base.model).state_dict()), cfg.load_from)
