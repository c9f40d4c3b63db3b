"""Checkpoints fill our models whole, or say what does not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import golden
from helpers.published import (
    CLASSIFIERS,
    classifier_checkpoint,
    dense_checkpoint,
    mask_rcnn,
    upernet,
)
from torch import Tensor, nn

from mmdat.checkpoints import load_published_checkpoint, matching, published_names
from mmdat.errors import UserError
from mmdat.models import DAT, DATPlusPlus, ScalableViT

every_family = pytest.mark.parametrize('name', CLASSIFIERS)


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


def test_output_norms_may_be_missing_in_a_dense_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(matching, 'print_log', lambda line, logger: lines.append(line))
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
    norms = ('norms.0.weight', 'norms.0.bias', 'norms.2.weight')
    names = ', '.join(f'backbone.{name}' for name in norms)
    assert lines == [f'the checkpoint has no {names} and 1 more, which stay as they were']


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
    backbone = DAT('nano')
    load_published_checkpoint(backbone, checkpoint)
    assert backbone_equals(backbone, checkpoint['model'])


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


@pytest.mark.parametrize(
    'name, table',
    [
        ('dat_pp_nano_fixed_pe', 'stages.0.attns.1.rpe_table'),
        ('dat_pp_nano_local_ops', 'stages.2.attns.0.relative_position_bias_table'),
        ('dat_pp_nano', 'stages.0.attns.0.rpb'),
    ],
)
def test_other_tables_are_not_resized(name: str, table: str) -> None:
    checkpoint = classifier_checkpoint(name)
    checkpoint['model'][table] = checkpoint['model'][table].repeat_interleave(2, -1)
    backbone = DAT.from_published(**golden.load(name)['options'])
    with pytest.raises(UserError, match='shapes differ'):
        load_published_checkpoint(backbone, checkpoint)


@pytest.mark.parametrize('name, arch', [('scalablevit_s', 'small'), ('scalablevit_l', 'large')])
def test_a_published_scalablevit_of_another_shape_is_refused_with_all_that_differs(
    name: str, arch: str
) -> None:
    manifest = golden.load(name)['manifest']
    width, dims = manifest['stages.2.3.mlp.fc1.weight']
    manifest['stages.2.3.mlp.fc1.weight'] = [width + 8, dims]
    manifest['stages.2.3.mlp.fc1.bias'] = [width + 8]
    manifest['stages.2.3.surplus.weight'] = [dims]
    del manifest['stages.1.0.norm1.weight']
    with torch.device('meta'):
        backbone = ScalableViT(arch)
        weights = {key: torch.empty(shape) for key, shape in manifest.items()}
    with pytest.raises(UserError) as caught:
        load_published_checkpoint(backbone, {'model': weights})
    assert str(caught.value) == (
        f"the checkpoint does not fit: it holds a ScalableViT '{arch}' in its authors' names, "
        f"the model a ScalableViT '{arch}'; "
        'it has keys that map nowhere: stages.2.3.surplus.weight; '
        'it leaves parameters unfilled: backbone.stages.1.blocks.0.norm1.weight; '
        'shapes differ: '
        'backbone.stages.2.blocks.3.ffn.expand.weight '
        f'({width + 8} x {dims} for {width} x {dims}), '
        f'backbone.stages.2.blocks.3.ffn.expand.bias ({width + 8} for {width})'
    )


@pytest.mark.parametrize(
    'kind, with_prefix',
    [
        ('published classifier', False),
        ('published detector', False),
        ('published detector', True),
        ('detector', False),
        ('detector', True),
        ('classifier', False),
        ('classifier', True),
        ('backbone', False),
    ],
)
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
        init_cfg['prefix'] = 'backbone.'
    backbone = DATPlusPlus('nano', init_cfg=init_cfg)
    backbone.init_weights()
    for name, tensor in source.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], tensor), name


@every_family
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_what_mmdat_trained_is_told_from_the_authors(name: str, prefix: str) -> None:
    backbone = CLASSIFIERS[name]('nano')
    weights = {f'{prefix}{key}': value for key, value in backbone.state_dict().items()}
    for load in (load_published_checkpoint, matching.convert_published_checkpoint):
        with pytest.raises(UserError, match=r"is of mmdat, .*by init_cfg=dict\(type='Pretrained'"):
            load(backbone, dict(state_dict=weights))


def test_init_cfg_refuses_a_checkpoint_of_another_model(tmp_path: Path) -> None:
    torch.save(dict(state_dict=ScalableViT('nano').state_dict()), tmp_path / 'other.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'other.pth'))
    with pytest.raises(UserError, match='map nowhere.*unfilled.*shapes differ'):
        DATPlusPlus(
            dict(embed_dims=(8,), blocks='L', num_heads=1), init_cfg=init_cfg
        ).init_weights()


@pytest.mark.parametrize('place', ['student.backbone', '_orig_mod.backbone', 'model'])
def test_init_cfg_names_the_prefix_that_weights_have(place: str, tmp_path: Path) -> None:
    weights = {f'{place}.{name}': value for name, value in DATPlusPlus('nano').state_dict().items()}
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict=weights), path)
    for given in (None, 'bakbone'):
        init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix=given)
        with pytest.raises(UserError, match=f"has no parameter .*: give prefix='{place}'$"):
            DATPlusPlus('nano', init_cfg=init_cfg).init_weights()
    init_cfg['prefix'] = place
    DATPlusPlus('nano', init_cfg=init_cfg).init_weights()


def ordinary(checkpoint: dict[str, Any], family: type) -> dict[str, Any]:
    """A published checkpoint as an OpenMMLab one of the backbone."""
    backbone = family('nano')
    load_published_checkpoint(backbone, checkpoint)
    return dict(
        state_dict={f'backbone.{name}': tensor for name, tensor in backbone.state_dict().items()}
    )


def initialize(backbone: nn.Module, checkpoint: dict[str, Any], path: Path) -> list[str]:
    """Initialize a backbone from a file of that content; return what is logged."""
    torch.save(checkpoint, path)
    backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, 'print_log', lambda line, logger: lines.append(line))
        backbone.init_weights()
    return lines[1:]  # without the one that names the file


@every_family
@pytest.mark.parametrize('is_published', [True, False])
@pytest.mark.parametrize(
    'channels, change', [(1, 'summed over them'), (5, 'repeated for 5 and scaled by 3 / 5')]
)
def test_a_pretrained_stem_is_made_to_fit_other_channels(
    name: str, is_published: bool, channels: int, change: str, tmp_path: Path
) -> None:
    family, checkpoint = CLASSIFIERS[name], classifier_checkpoint(name)
    whole = ordinary(checkpoint, family)['state_dict']
    given = checkpoint if is_published else dict(state_dict=whole)
    backbone = family('nano', in_channels=channels)
    line, *left = initialize(backbone, given, tmp_path / 'rgb.pth')
    assert [' has no norms.' in text for text in left] == [True] * is_published
    assert line.endswith(f'rgb.pth has a first convolution for 3 channels, which is {change}')
    stem = whole['backbone.embeddings.0.0.weight']
    # A gray image gives what it gave in three equal channels.
    gray = torch.randn(1, 1, 32, 32)
    assert torch.allclose(
        F.conv2d(gray.expand(-1, channels, -1, -1), backbone.embeddings[0][0].weight),
        F.conv2d(gray.expand(-1, channels, -1, -1), stem[:, [0, 1, 2, 0, 1]] * 3 / 5)
        if channels == 5
        else F.conv2d(gray.expand(-1, 3, -1, -1), stem),
        atol=1e-5,
    )

    again = family('nano', in_channels=channels)
    own = dict(state_dict=backbone.state_dict())
    assert initialize(again, own, tmp_path / 'own.pth') == []
    assert torch.equal(again.embeddings[0][0].weight, backbone.embeddings[0][0].weight)
    other = family('nano', in_channels=4)
    with pytest.raises(UserError, match=r'shapes differ: embeddings.0.0.weight \(.*\)'):
        initialize(other, own, tmp_path / 'own.pth')


@every_family
@pytest.mark.parametrize('is_published', [True, False])
def test_stages_that_are_not_built_may_be_in_a_checkpoint(
    name: str, is_published: bool, tmp_path: Path
) -> None:
    family, checkpoint = CLASSIFIERS[name], classifier_checkpoint(name)
    whole = ordinary(checkpoint, family)['state_dict']
    given = checkpoint['model'] if is_published else whole
    backbone = family('nano', out_indices=(0, 1))
    line, *left = initialize(backbone, given, tmp_path / 'whole.pth')
    assert [' has no norms.' in text for text in left] == [True] * is_published
    assert line.endswith('whole.pth has stages or norms that out_indices leaves out')
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, whole[f'backbone.{key}']), key

    prefix = '' if is_published else 'backbone.'
    for changed in (
        {key: tensor for key, tensor in given.items() if not key.startswith(f'{prefix}stages.1.')},
        given | {f'{prefix}stages.4.surplus': torch.zeros(1)},
    ):
        with pytest.raises(UserError, match=r'leaves parameters unfilled|map nowhere'):
            initialize(family('nano', out_indices=(0, 1)), changed, tmp_path / 'whole.pth')


@pytest.mark.parametrize('build', [mask_rcnn, upernet])
def test_a_dense_checkpoint_fills_a_backbone_of_fewer_stages(build: Any) -> None:
    backbone, checkpoint = DATPlusPlus('nano', out_indices=(1,)), dense_checkpoint(build())
    load_published_checkpoint(backbone, checkpoint)
    assert backbone_equals(backbone, checkpoint['state_dict'], 'backbone.')
