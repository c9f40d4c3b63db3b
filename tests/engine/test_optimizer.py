"""Learning rates and weight decays of parameter groups."""

import re
from pathlib import Path
from typing import Any

import mmdet.models  # noqa: F401  registers its backbones
import pytest
import torch
from helpers.imports import ROOT
from helpers.published import mask_rcnn, upernet
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier
from torch import nn

from mmdat.engine import BFloat16OptimWrapper
from mmdat.errors import UserError
from mmdat.models import DATPlusPlus
from mmdat.registry import MODELS

LR, WEIGHT_DECAY, RATE = 0.1, 0.05, 0.5


def classifier() -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return ImageClassifier(
            DATPlusPlus('nano', out_indices=(3,)),
            dict(type='GlobalAveragePooling'),
            dict(type='LinearClsHead', num_classes=2, in_channels=128),
        )


def groups(model: nn.Module, scope: str = 'mmdat', **options: Any) -> dict[str, dict[str, Any]]:
    """The parameter groups by the name of their parameter, of which each has one."""
    options = {'constructor': 'mmdat.BackboneDecayConstructor'} | options
    optimizer = options.pop('optimizer', dict(type='AdamW', lr=LR, weight_decay=WEIGHT_DECAY))
    with DefaultScope.overwrite_default_scope(scope):
        wrapper = build_optim_wrapper(model, dict(optimizer=optimizer, **options))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_name = {}
    for group in wrapper.optimizer.param_groups:
        (parameter,) = group['params']
        assert names[id(parameter)] not in by_name
        by_name[names[id(parameter)]] = group
    return by_name


@pytest.mark.parametrize('build', [mask_rcnn, upernet, classifier])
def test_the_learning_rate_falls_from_layer_to_layer(build: Any) -> None:
    model = build()
    found = groups(model, paramwise_cfg=dict(layer_decay_rate=RATE))
    assert found.keys() == dict(model.named_parameters()).keys()
    # DAT++ nano has two blocks in each of four stages; an embedding learns with the block after it.
    layers = {'backbone.embeddings.0.': 0} | {
        f'backbone.{part}': 1 + 2 * stage + block
        for stage in range(4)
        for block in range(2)
        for part in (
            f'stages.{stage}.blocks.{block}.',
            *([f'embeddings.{stage}.'] if stage and not block else []),
        )
    }
    for name, group in found.items():
        layer = next((layer for start, layer in layers.items() if name.startswith(start)), 9)
        assert group['lr'] == pytest.approx(LR * RATE ** (9 - layer)), name
        undecayed = name.startswith('backbone.') and (
            'norm' in name
            or name.endswith('relative_position_bias_table')
            or isinstance(model.get_submodule(name.rpartition('.')[0]), nn.LayerNorm)
        )
        assert group['weight_decay'] == (0 if undecayed else WEIGHT_DECAY), name


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_the_lines_of_the_docs_decay_by_layer(scope: str, tmp_path: Path) -> None:
    pages = ((ROOT / 'docs' / name).read_text() for name in ('projects.md', 'training_options.md'))
    project, *options = re.findall(r'```python\n(.*?)```', '\n'.join(pages), re.DOTALL)
    (decay,) = (lines for lines in options if 'layer_decay_rate' in lines)
    if scope != 'mmdet':
        project = "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-4))"
    (tmp_path / 'project.py').write_text(project)
    (tmp_path / 'decay.py').write_text(f"_base_ = 'project.py'\n{decay}")
    options = Config.fromfile(tmp_path / 'decay.py').optim_wrapper
    options.pop('type', None)
    model = dict(mmdet=mask_rcnn, mmseg=upernet, mmpretrain=classifier)[scope]()
    found = groups(model, scope, **options)
    assert found['backbone.embeddings.0.0.weight']['lr'] == pytest.approx(1e-4 * 0.9**9)
    heads = [name for name in found if not name.startswith('backbone.')]
    assert heads and all(found[name]['lr'] == 1e-4 for name in heads)


def test_layers_are_those_that_mmpretrain_finds() -> None:
    model = classifier()
    paramwise_cfg = dict(layer_decay_rate=RATE)
    theirs = groups(
        model,
        'mmpretrain',
        constructor='LearningRateDecayOptimWrapperConstructor',
        paramwise_cfg=paramwise_cfg,
    )
    ours = groups(model, paramwise_cfg=paramwise_cfg)
    assert {name: group['lr'] for name, group in theirs.items()} == {
        name: group['lr'] for name, group in ours.items()
    }


def test_layer_decay_comes_on_top_of_custom_keys_and_spares_the_frozen() -> None:
    model = mask_rcnn()
    model.backbone = DATPlusPlus('nano', frozen_stages=1, out_indices=(0, 1))
    custom_keys = {'backbone': dict(lr_mult=0.1)}
    found = groups(model, paramwise_cfg=dict(layer_decay_rate=RATE, custom_keys=custom_keys))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found.keys() == trained
    assert found['backbone.stages.1.blocks.1.norm1.weight']['lr'] == pytest.approx(LR * 0.1 * RATE)


@pytest.mark.parametrize(
    'rate, backbone, sentence',
    [
        (0, None, 'layer_decay_rate must be above 0 and at most 1, got 0'),
        (True, None, 'layer_decay_rate must be above 0 and at most 1, got True'),
        (1.2, None, 'layer_decay_rate must be above 0 and at most 1, got 1.2'),
        (0.9, dict(type='mmdet.ResNet', depth=18), 'needs a backbone with get_layer_depth.*ResNet'),
    ],
)
def test_a_layer_decay_that_cannot_be_is_refused(
    rate: Any, backbone: dict[str, Any] | None, sentence: str
) -> None:
    model = nn.Module()
    model.backbone = MODELS.build(backbone or dict(type='mmdat.DATPlusPlus', arch='nano'))
    with pytest.raises(UserError, match=sentence):
        groups(model, paramwise_cfg=dict(layer_decay_rate=rate))


def test_layer_decay_needs_a_learning_rate() -> None:
    with pytest.raises(UserError, match='needs a learning rate: set optimizer.lr'):
        groups(
            classifier(), optimizer=dict(type='AdamW'), paramwise_cfg=dict(layer_decay_rate=RATE)
        )


@pytest.mark.parametrize('parts', [(), ('backbone',)])
def test_bfloat16_is_for_the_whole_model_or_parts_of_it(parts: tuple[str, ...]) -> None:
    model = nn.Module()
    model.backbone = DATPlusPlus('nano', out_indices=(0,))
    model.head = nn.Conv2d(16, 1, 1)
    seen: list[torch.dtype] = []
    model.backbone.embeddings[0][0].register_forward_hook(lambda *args: seen.append(args[-1].dtype))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wrapper = BFloat16OptimWrapper(parts, optimizer=optimizer)
    images = torch.rand(1, 3, 64, 64)
    with wrapper.optim_context(model):
        (features,) = model.backbone(images)
        out = model.head(features)
    assert seen == [torch.bfloat16]
    assert out.dtype == (torch.float32 if parts else torch.bfloat16)
    wrapper.update_params(out.float().mean())
    model.backbone(images)
    assert seen[1] == torch.float32  # outside, all is as it was
