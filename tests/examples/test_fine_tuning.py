"""The examples of training on data of one's own train, on synthetic data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdat.apis import train
from mmdat.datasets import ShapesParameters, write_shapes_coco
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
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='Resize', scale=SCALE),
    dict(type='PackSegInputs'),
)
# Example -> what draws its data, their folder, and options that make it small.
EXAMPLES = {
    'fine_tune_boxes_and_masks': (
        write_shapes_coco,
        'data/shapes',
        {
            'model.neck.in_channels': [16, 32, 64, 128],
            'model.train_cfg.rcnn.sampler.num': 16,
            'model.test_cfg.rpn.max_per_img': 20,
            'train_dataloader.dataset.pipeline': MASKS,
            'val_dataloader.dataset.pipeline.1.scale': SCALE,
            'train_cfg': dict(max_epochs=1, val_interval=1),
        },
    ),
    'fine_tune_mask_folders': (
        write_shapes_segment,
        'data/shapes_segment',
        {
            'model.decode_head.in_channels': [16, 32, 64, 128],
            'model.decode_head.channels': 8,
            'model.auxiliary_head.in_channels': 64,
            'model.data_preprocessor.size': SCALE,
            'train_dataloader.dataset.pipeline': SEGMENTS,
            'val_dataloader.dataset.pipeline.1.scale': SCALE,
            'train_cfg': dict(max_iters=2, val_interval=2),
        },
    ),
}


@pytest.mark.parametrize('name', EXAMPLES)
def test_an_example_trains_on_synthetic_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = ROOT / 'examples' / f'{name}.py'
    monkeypatch.chdir(tmp_path)
    write, folder, small = EXAMPLES[name]
    write(folder, ShapesParameters(train=4, val=2, size=96))
    options = {
        **small,
        'model.backbone.arch': 'nano',
        'param_scheduler': [],
        'train_dataloader.batch_size': 2,
        **{
            f'{split}_dataloader.{key}': value
            for split in ('train', 'val')
            for key, value in LOADER.items()
        },
    }
    save_pretrained(example, options)
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
