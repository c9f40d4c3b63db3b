"""Published checkpoints become ordinary ones of OpenMMLab."""

from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.disk import full_disk
from helpers.published import classifier_checkpoint, dense_checkpoint, mask_rcnn
from mmengine.runner import load_checkpoint
from torch import nn

from mmdat.apis.convert import compare_published, convert_published_file, print_places
from mmdat.checkpoints import load_published_checkpoint
from mmdat.errors import UserError


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
    out = str(tmp_path / ('out.safetensors' if name == 'scalablevit_nano' else 'out.pth'))
    convert_published_file(str(tmp_path / 'in.pth'), out)
    model = golden.build_classifier(golden.load(name) | {'options': fixture['options']})
    expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    if options:
        load_published_checkpoint(model, {'model': weights})
        expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    load_checkpoint(model, out, strict=True, map_location='cpu')
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    assert list(tmp_path.glob('*.partial')) == []


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_full_disk_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    source, target = tmp_path / 'in.pth', tmp_path / f'out{suffix}'
    torch.save({'model': classifier_checkpoint('dat_nano')['model']}, source)
    target.write_text('before')
    with full_disk(), pytest.raises(UserError, match='cannot be written: File too large'):
        convert_published_file(str(source), str(target))
    assert target.read_text() == 'before' and set(tmp_path.iterdir()) == {source, target}


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
    'model, sentence',
    [
        ("dict(type='ImageClassifier')", 'config .*config.py has no model.backbone: add one'),
        (
            "dict(backbone=dict(type='mmdat.DAT', archh='tiny'))",
            "unknown key 'model.backbone.archh' for DAT: did you mean 'arch'?",
        ),
        (
            "dict(backbone=dict(type='mmdat.DTA', arch='tiny'))",
            "unknown model.backbone.type='mmdat.DTA': nothing of that name is registered",
        ),
    ],
)
def test_a_config_without_a_backbone_to_build_is_refused(
    model: str, sentence: str, tmp_path: Path
) -> None:
    torch.save({'model': {'weight': torch.ones(1)}}, tmp_path / 'in.pth')
    (tmp_path / 'config.py').write_text(f'model = {model}')
    with pytest.raises(UserError, match=sentence):
        convert_published_file(
            str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'), str(tmp_path / 'config.py')
        )


@pytest.mark.parametrize('change', ['none', 'table', 'shape', 'more', 'less'])
def test_a_checkpoint_is_compared_tensor_by_tensor(change: str) -> None:
    model = golden.build_classifier(golden.load('dat_pp_nano'))
    weights = dict(classifier_checkpoint('dat_pp_nano')['model'])
    table = next(key for key in weights if key.endswith('rpe_table'))
    expected = {'fits'}
    if change == 'table':
        weights[table] = weights[table].repeat(1, 2, 2)
        expected |= {'is resized'}
    elif change == 'shape':
        weights['cls_norm.norm.weight'] = torch.ones(3)
        expected |= {'has another shape'}
    elif change == 'more':
        weights['stages.9.extra'] = torch.ones(3)
        expected |= {'has no place'}
    elif change == 'less':
        del weights['cls_norm.norm.weight']
        expected |= {'is missing'}
    places = compare_published(model, weights, 'dat.pth')
    assert {place.verdict for place in places} == expected
    assert {place.name for place in places if place.shape is not None} == model.state_dict().keys()
    for verdict in expected - {'fits'}:
        assert [place.verdict for place in places].count(verdict) == 1


def test_a_detector_takes_a_classifier_but_for_its_own_parts() -> None:
    model = mask_rcnn()
    places = compare_published(model, classifier_checkpoint('dat_pp_nano')['model'], 'dat.pth')
    verdicts = {place.verdict for place in places if place.name.startswith('backbone.stages')}
    assert verdicts == {'fits'}
    assert {place.verdict for place in places} == {'fits', 'stays as it is'}


def test_a_classifier_fits_the_backbone_of_a_detector(capsys: pytest.CaptureFixture[str]) -> None:
    weights = classifier_checkpoint('dat_pp_nano')['model']
    print_places(compare_published(mask_rcnn(), weights, 'x.pth'), 'x.py', 'x.pth')
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == 'x.pth fits the backbone of x.py, and has nothing else: give it to init_cfg'


def test_a_published_detector_fits_and_the_table_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = mask_rcnn()
    weights = dense_checkpoint(model)['state_dict']
    print_places(compare_published(model, weights, 'x.pth'), 'x.py', 'x.pth')
    assert capsys.readouterr().out.endswith('x.pth fits x.py\n')
    weights['rpn_head.rpn_cls.weight'] = torch.ones(7)
    with pytest.raises(UserError, match=r'1 tensors, see above; the backbone fits'):
        print_places(compare_published(model, weights, 'x.pth'), 'x.py', 'x.pth')
    row = next(line for line in capsys.readouterr().out.splitlines() if 'rpn_cls.weight' in line)
    assert '(7,)' in row and 'has another shape' in row
