"""The authors' checkpoints and configs fill and build our models, or say what does not fit."""

import argparse
import contextlib
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import golden
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from mmdat.errors import UserError
from mmdat.models import DAT, DATPlusPlus, ScalableViT, load_published_checkpoint, published_names
from mmdat.models.conversion import convert_published_file
from mmdat.registry import MODELS

CLASSIFIERS = {'dat_nano': DAT, 'dat_pp_nano': DATPlusPlus, 'scalablevit_nano': ScalableViT}
every_family = pytest.mark.parametrize('name', CLASSIFIERS)


def classifier_checkpoint(name: str) -> dict[str, Any]:
    return {'model': golden.make_state_dict(golden.load(name)['manifest'])}


def mask_rcnn(backbone: str = 'mmdat.DATPlusPlus') -> nn.Module:
    narrow = dict(in_channels=8)
    with DefaultScope.overwrite_default_scope('mmdet'):
        import mmdet.models  # noqa: F401  registers the modules below

        return MODELS.build(
            Config(
                dict(
                    model=dict(
                        type='mmdet.MaskRCNN',
                        backbone=dict(type=backbone, arch='nano'),
                        neck=dict(
                            type='FPN', in_channels=[16, 32, 64, 128], out_channels=8, num_outs=5
                        ),
                        rpn_head=dict(
                            type='RPNHead',
                            in_channels=8,
                            feat_channels=8,
                            anchor_generator=dict(
                                type='AnchorGenerator',
                                scales=[8],
                                ratios=[1.0],
                                strides=[4, 8, 16, 32, 64],
                            ),
                            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
                        ),
                        roi_head=dict(
                            type='StandardRoIHead',
                            bbox_roi_extractor=dict(
                                type='SingleRoIExtractor',
                                out_channels=8,
                                featmap_strides=[4, 8, 16, 32],
                                roi_layer=dict(type='RoIAlign', output_size=7),
                            ),
                            bbox_head=dict(
                                type='Shared2FCBBoxHead',
                                fc_out_channels=8,
                                num_classes=2,
                                bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
                                **narrow,
                            ),
                            mask_roi_extractor=dict(
                                type='SingleRoIExtractor',
                                out_channels=8,
                                featmap_strides=[4, 8, 16, 32],
                                roi_layer=dict(type='RoIAlign', output_size=14),
                            ),
                            mask_head=dict(
                                type='FCNMaskHead',
                                num_convs=1,
                                conv_out_channels=8,
                                num_classes=2,
                                **narrow,
                            ),
                        ),
                        train_cfg=dict(rpn=None, rcnn=None),
                        test_cfg=dict(rpn=None, rcnn=None),
                    )
                )
            ).model
        )


def upernet() -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmseg'):
        import mmseg.models  # noqa: F401  registers the modules below

        head = dict(num_classes=3, channels=8, norm_cfg=dict(type='BN'))
        return MODELS.build(
            Config(
                dict(
                    model=dict(
                        type='mmseg.EncoderDecoder',
                        backbone=dict(type='mmdat.DATPlusPlus', arch='nano'),
                        decode_head=dict(
                            type='UPerHead',
                            in_channels=[16, 32, 64, 128],
                            in_index=[0, 1, 2, 3],
                            pool_scales=(1, 2),
                            **head,
                        ),
                        auxiliary_head=dict(
                            type='FCNHead', in_channels=64, in_index=2, num_convs=1, **head
                        ),
                        test_cfg=dict(mode='whole'),
                    )
                )
            ).model
        )


def dense_checkpoint(model: nn.Module) -> dict[str, Any]:
    """What mmdet 2.x or mmseg 0.x would have saved of ``model``, with random weights."""
    names = published_names(model.backbone)
    state = {}
    for name, tensor in model.state_dict().items():
        name = name.removeprefix('backbone.')
        name = f'backbone.{names[name]}' if name in names else name
        state[name] = torch.randn_like(tensor) if tensor.is_floating_point() else tensor + 5
    state['backbone.stages.0.attns.0.relative_position_index'] = torch.zeros(49, 49).long()
    return {'meta': dict(epoch=12, CLASSES=('a', 'b')), 'state_dict': state}


def backbone_equals(backbone: nn.Module, published: dict[str, Tensor], prefix: str = '') -> bool:
    return all(
        torch.equal(backbone.get_parameter(ours), published[prefix + theirs].float())
        for ours, theirs in published_names(backbone).items()
        if prefix or not theirs.startswith('norms.')
    )


@every_family
def test_a_backbone_takes_a_classifier_without_its_head(name: str) -> None:
    checkpoint = classifier_checkpoint(name)
    backbone = CLASSIFIERS[name]('nano')
    load_published_checkpoint(backbone, checkpoint)
    assert backbone_equals(backbone, checkpoint['model'])
    for norm in backbone.norms.values():
        assert (norm.weight == 1).all() and (norm.bias == 0).all()


@pytest.mark.parametrize('build', [mask_rcnn, upernet])
def test_dense_models_take_the_checkpoints_of_their_kind_whole(build: Any) -> None:
    model, checkpoint = build(), dense_checkpoint(build())
    load_published_checkpoint(model, checkpoint)
    assert backbone_equals(model.backbone, checkpoint['state_dict'], 'backbone.')
    for name, tensor in model.state_dict().items():
        if not name.startswith('backbone.'):
            assert torch.equal(tensor, checkpoint['state_dict'][name]), name


@pytest.mark.parametrize('build', [mask_rcnn, upernet])
def test_a_backbone_takes_its_part_of_a_dense_checkpoint(build: Any) -> None:
    backbone, checkpoint = DATPlusPlus('nano', out_indices=(1, 2, 3)), dense_checkpoint(build())
    load_published_checkpoint(backbone, checkpoint)
    assert backbone_equals(backbone, checkpoint['state_dict'], 'backbone.')


def test_output_norms_may_be_missing_in_a_dense_checkpoint() -> None:
    model, checkpoint = mask_rcnn(), dense_checkpoint(mask_rcnn())
    for stage in (0, 2):
        for leaf in ('weight', 'bias'):
            del checkpoint['state_dict'][f'backbone.norms.{stage}.norm.{leaf}']
    load_published_checkpoint(model, checkpoint)
    assert [bool((norm.bias == 0).all()) for norm in model.backbone.norms.values()] == [
        True,
        False,
        True,
        False,
    ]


def test_a_detector_takes_a_classifiers_backbone_and_keeps_the_rest() -> None:
    model, checkpoint = mask_rcnn(), classifier_checkpoint('dat_pp_nano')
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_published_checkpoint(model, checkpoint)
    assert backbone_equals(model.backbone, checkpoint['model'])
    for name, tensor in model.state_dict().items():
        if not name.startswith('backbone.') or name.startswith('backbone.norms.'):
            assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize('target', ['backbone', 'detector'])
def test_a_load_that_does_not_fit_lists_all_and_changes_nothing(target: str) -> None:
    model = DATPlusPlus('nano') if target == 'backbone' else mask_rcnn()
    checkpoint = (
        classifier_checkpoint('dat_pp_nano')
        if target == 'backbone'
        else dense_checkpoint(mask_rcnn())
    )
    weights = checkpoint['model' if target == 'backbone' else 'state_dict']
    prefix = '' if target == 'backbone' else 'backbone.'
    for name in ('stages.0.attns.0.qkv.bias', 'stages.1.attns.1.proj_q.weight'):
        del weights[prefix + name]
    weights[prefix + 'stages.0.attns.0.extra'] = torch.zeros(3)
    weights[prefix + 'patch_proj.0.bias'] = torch.zeros(3)
    if target == 'detector':
        del weights['roi_head.bbox_head.fc_cls.bias']
        weights['neck.surplus.weight'] = torch.zeros(3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_published_checkpoint(model, checkpoint)
    unmapped, unfilled, misshaped = str(caught.value).split(';')[1:]
    assert 'stages.0.attns.0.extra' in unmapped
    assert 'stages.0.blocks.0.attention.qkv.bias' in unfilled
    assert 'stages.1.blocks.1.attention.query.weight' in unfilled
    assert 'embeddings.0.0.bias (3 for 8)' in misshaped
    if target == 'detector':
        assert 'neck.surplus.weight' in unmapped
        assert 'roi_head.bbox_head.fc_cls.bias' in unfilled
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    'name, options',
    [
        ('bogus.counter', {}),
        ('nowhere.attn_mask', {}),
        ('cls_head.bogus', {}),
        ('norms.0.norm.bogus', dict(out_indices=(1, 2, 3))),
    ],
)
def test_no_key_is_skipped_for_what_it_is_called_or_holds(name: str, options: dict) -> None:
    checkpoint = (
        dense_checkpoint(mask_rcnn())
        if name.startswith('norms.')
        else classifier_checkpoint('dat_pp_nano')
    )
    if name.startswith('norms.'):
        checkpoint['state_dict'][f'backbone.{name}'] = torch.zeros(3)
    else:
        checkpoint['model'][name] = torch.zeros(3, dtype=torch.long)
    with pytest.raises(UserError, match=f'map nowhere: .*{name}'):
        load_published_checkpoint(DATPlusPlus('nano', **options), checkpoint)


def test_a_checkpoint_of_another_model_is_refused() -> None:
    with pytest.raises(UserError, match='maps? nowhere.*unfilled'):
        load_published_checkpoint(DATPlusPlus('nano'), classifier_checkpoint('scalablevit_nano'))
    with pytest.raises(UserError, match='no backbone of mmdat'):
        load_published_checkpoint(nn.Linear(2, 2), classifier_checkpoint('dat_nano'))
    with pytest.raises(UserError, match='no weights'):
        load_published_checkpoint(DATPlusPlus('nano'), {'epoch': 3})


def test_another_number_of_classes_is_an_error() -> None:
    fixture = golden.load('dat_pp_nano')
    model = golden.build_classifier(fixture)
    checkpoint = classifier_checkpoint('dat_pp_nano')
    checkpoint['model']['cls_head.weight'] = torch.zeros(7, 128)
    with pytest.raises(UserError, match=r'head\.fc\.weight \(7 x 128 for 10 x 128\)'):
        load_published_checkpoint(model, checkpoint)


def test_buffers_are_not_loaded() -> None:
    checkpoint = classifier_checkpoint('dat_nano')
    checkpoint['model']['stages.0.attns.1.attn_mask'] = torch.zeros(64, 49, 49)
    checkpoint['model']['stages.0.attns.0.relative_position_index'] = torch.zeros(49, 49).long()
    load_published_checkpoint(DAT('nano'), checkpoint)


@pytest.mark.parametrize('name', ['dat_pp_nano_no_off', 'dat_pp_nano_local_ops_scaled'])
def test_parameters_that_the_published_model_does_not_use_are_not_ours(name: str) -> None:
    fixture = golden.load(name)
    backbone = DAT.from_published(**fixture['options'])
    load_published_checkpoint(backbone, classifier_checkpoint(name))
    unused = {
        key for key in fixture['manifest'] if key not in fixture['grads'] and 'dep_conv' not in key
    }
    assert unused and not unused & set(published_names(backbone).values())


@pytest.mark.parametrize('name, size', [('dat_nano', 384), ('dat_pp_nano', 128)])
def test_tables_are_resized_to_another_pretraining_size(name: str, size: int) -> None:
    checkpoint = classifier_checkpoint(name)
    backbone = CLASSIFIERS[name]('nano', pretrain_img_size=size)
    load_published_checkpoint(backbone, checkpoint)
    table = checkpoint['model']['stages.3.attns.1.rpe_table']
    expected = F.interpolate(table[None], (2 * (size // 32) - 1,) * 2, mode='bicubic')[0]
    ours = backbone.stages[3].blocks[1].attention.relative_position_bias_table
    assert torch.allclose(ours, expected.float(), atol=1e-6)


def test_window_tables_are_resized_through_their_square_view() -> None:
    options = golden.load('dat_nano')['options'] | {'window_sizes': [5, 7, 7, 7]}
    backbone = DAT.from_published(**options)
    checkpoint = classifier_checkpoint('dat_nano')
    load_published_checkpoint(backbone, checkpoint)
    table = checkpoint['model']['stages.0.attns.1.relative_position_bias_table']
    view = table.T.reshape(1, 1, 13, 13)
    expected = F.interpolate(view, (9, 9), mode='bicubic').reshape(1, 81).T
    ours = backbone.stages[0].blocks[1].attention.relative_position_bias_table
    assert torch.allclose(ours, expected.float(), atol=1e-6)


@pytest.mark.parametrize('name', ['dat_pp_nano_fixed_pe', 'dat_pp_nano_local_ops'])
def test_other_tables_are_not_resized(name: str) -> None:
    checkpoint = classifier_checkpoint(name)
    for key in ('stages.0.attns.1.rpe_table', 'stages.2.attns.0.relative_position_bias_table'):
        if checkpoint['model'].get(key, torch.zeros(0, 0)).ndim in (3, 6) and (
            'fixed' in name or 'relative' in key
        ):
            checkpoint['model'][key] = checkpoint['model'][key].repeat_interleave(2, -1)
    backbone = DAT.from_published(**golden.load(name)['options'])
    with pytest.raises(UserError, match='shapes differ'):
        load_published_checkpoint(backbone, checkpoint)


def save_beside_other_things(
    path: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> str:
    """As training scripts do: with an average, an optimizer, arguments and a configuration."""
    module = types.ModuleType('yacs.config')
    module.CfgNode = type('CfgNode', (dict,), {'__module__': 'yacs.config'})
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    config = module.CfgNode(MODEL=module.CfgNode(TYPE='dat'))
    config.__dict__['frozen'] = True
    torch.save(
        dict(
            model=weights,
            model_ema=weights,
            optimizer=dict(state={}, param_groups=[]),
            epoch=299,
            max_accuracy=np.float64(83.9),
            config=config,
            args=argparse.Namespace(lr=1e-3),
        ),
        path,
    )
    monkeypatch.delitem(sys.modules, 'yacs.config')
    return str(path)


def test_files_are_read_whatever_lies_beside_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = classifier_checkpoint('dat_nano')['model']
    path = save_beside_other_things(tmp_path / 'dat.pth', weights, monkeypatch)
    backbone = DAT('nano')
    load_published_checkpoint(backbone, path)
    assert backbone_equals(backbone, weights)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / 'run'),)

    weights = classifier_checkpoint('dat_nano')['model']
    torch.save(dict(model=weights, evil=Evil()), tmp_path / 'evil.pth')
    with contextlib.suppress(UserError):
        load_published_checkpoint(DAT('nano'), tmp_path / 'evil.pth')
    assert not (tmp_path / 'run').exists()


def test_a_missing_or_broken_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='there is no checkpoint'):
        load_published_checkpoint(DAT('nano'), tmp_path / 'missing.pth')
    (tmp_path / 'broken.pth').write_bytes(b'\x80\x02garbage')
    with pytest.raises(UserError, match=r'broken\.pth'):
        load_published_checkpoint(DAT('nano'), tmp_path / 'broken.pth')


@pytest.mark.parametrize(
    'kind', ['published classifier', 'published detector', 'detector', 'classifier', 'backbone']
)
@pytest.mark.parametrize('with_prefix', [False, True])
def test_init_cfg_takes_published_and_ordinary_files(
    tmp_path: Path, kind: str, with_prefix: bool
) -> None:
    published = classifier_checkpoint('dat_pp_nano')
    source = mask_rcnn()
    load_published_checkpoint(source, published)
    if kind == 'published detector':
        published = dense_checkpoint(source)
        load_published_checkpoint(source, published)
    content = {
        'published classifier': published,
        'published detector': published,
        'detector': dict(state_dict=source.state_dict()),
        'classifier': dict(
            state_dict={
                f'backbone.{name}': tensor for name, tensor in source.backbone.state_dict().items()
            }
        ),
        'backbone': dict(state_dict=source.backbone.state_dict()),
    }[kind]
    torch.save(content, tmp_path / 'file.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth'))
    if with_prefix:
        if kind in ('published classifier', 'backbone'):
            pytest.skip('its keys have no prefix')
        init_cfg['prefix'] = 'backbone.'
    backbone = DATPlusPlus('nano', init_cfg=init_cfg)
    backbone.init_weights()
    for name, tensor in source.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    'init_cfg',
    ['x.pth', dict(checkpoint='x.pth'), dict(type='Pretrained'), [dict(type='Pretrained')]],
)
def test_an_init_cfg_without_type_or_checkpoint_is_refused(init_cfg: Any) -> None:
    with pytest.raises(UserError, match='init_cfg must have a type'):
        DAT('nano', init_cfg=init_cfg).init_weights()


def test_init_cfg_refuses_a_checkpoint_of_another_model(tmp_path: Path) -> None:
    torch.save(dict(state_dict=ScalableViT('nano').state_dict()), tmp_path / 'other.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'other.pth'))
    with pytest.raises(UserError, match='map nowhere.*unfilled.*shapes differ'):
        DATPlusPlus(
            dict(embed_dims=(8,), blocks='L', num_heads=1), init_cfg=init_cfg
        ).init_weights()


@pytest.mark.parametrize(
    'name, options',
    [('dat_nano', {}), ('scalablevit_nano', {}), ('dat_pp_nano', {'img_size': 384})],
)
def test_a_converted_classifier_is_an_ordinary_checkpoint(
    tmp_path: Path, name: str, options: dict
) -> None:
    fixture = golden.load(name)
    fixture['options'] |= options
    weights = classifier_checkpoint(name)['model']
    if options:
        for key in [key for key in weights if key.endswith('rpe_table')]:
            stage = int(key.split('.')[1])
            side = 2 * 384 // 4 // 2**stage - 1
            weights[key] = weights[key][:, :1, :1].expand(-1, side, side).clone()
    torch.save({'model': weights}, tmp_path / 'in.pth')
    convert_published_file(str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'))
    model = golden.build_classifier(golden.load(name) | {'options': fixture['options']})
    expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    if options:
        load_published_checkpoint(model, {'model': weights})
        expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    load_checkpoint(model, str(tmp_path / 'out.pth'), strict=True, map_location='cpu')
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    assert list(tmp_path.glob('*.partial')) == []


def test_a_converted_variant_needs_its_config(tmp_path: Path) -> None:
    model = mask_rcnn()
    torch.save(dense_checkpoint(model), tmp_path / 'detector.pth')
    assert (
        convert_published_file(str(tmp_path / 'detector.pth'), str(tmp_path / 'out.pth'))
        == 'DATPlusPlus'
    )
    load_checkpoint(model, str(tmp_path / 'out.pth'), strict=True, map_location='cpu')
    variant = {'model': golden.make_state_dict(golden.load('dat_pp_nano_log_cpb')['manifest'])}
    torch.save(variant, tmp_path / 'variant.pth')
    with pytest.raises(UserError, match='give --config'):
        convert_published_file(str(tmp_path / 'variant.pth'), str(tmp_path / 'out2.pth'))
    assert not (tmp_path / 'out2.pth').exists()
    (tmp_path / 'config.py').write_text("""
arch = dict(embed_dims=(16, 32, 64, 128), num_heads=(1, 2, 4, 8), groups=(1, 1, 2, 4),
            blocks=('ND', 'ND', 'ND', 'DD'), position_bias='log')
model = dict(backbone=dict(type='mmdat.DATPlusPlus', arch=arch))
""")
    convert_published_file(
        str(tmp_path / 'variant.pth'), str(tmp_path / 'out2.pth'), str(tmp_path / 'config.py')
    )


@pytest.mark.parametrize(
    'change, sentence',
    [
        (dict(ns_per_pts=3, nqs=[1] * 4, lower_lr_kvs={}), None),
        (dict(use_pe=[True] * 4), "no option 'use_pe': did you mean 'use_pes'"),
        (dict(depths=[2, 2, 2, 4]), "'depths' is [2, 2, 2, 4]"),
        (dict(dims=[16, 32, 64]), 'needs a value for each of the 3 stages'),
        (
            dict(no_offs=[True] * 4, dwc_pes=[True] * 4),
            "'no_offs' and 'dwc_pes' exclude each other",
        ),
        (dict(dim_stem=8), "'dim_stem' is 8"),
        (dict(patch_size=8), "'patch_size' must be 4"),
        (dict(attn_drop_rate=0.1), "'attn_drop_rate' must be 0"),
        (dict(stage_spec=[['Q', 'D']] * 4), "'blocks' has 'QD'"),
    ],
)
def test_published_options_are_checked(change: dict, sentence: str | None) -> None:
    options = golden.load('dat_pp_nano')['options'] | change
    if sentence is None:
        DAT.from_published(**options)
        return
    with pytest.raises(UserError) as caught:
        DAT.from_published(**options)
    assert sentence in str(caught.value)


def test_published_options_may_lack_what_no_block_needs() -> None:
    options = golden.load('dat_nano')['options']
    for name in (
        'nat_ksizes',
        'dwc_pes',
        'no_offs',
        'fixed_pes',
        'use_dwc_mlps',
        'use_lpus',
        'depths',
        'img_size',
        'num_classes',
        'dim_stem',
    ):
        del options[name]
    DAT.from_published(**options)
    del options['strides']
    with pytest.raises(UserError, match="option 'strides' is missing"):
        DAT.from_published(**options)
