"""Parameters and multiply-accumulates of the models, against the papers'."""
from pathlib import Path

import pytest

from mmdat.apis.analysis import image_shape, load_config
from mmdat.apis.complexity import Complexity, count_complexity, print_complexity
from mmdat.errors import UserError

ROOT = Path(__file__).parents[2]
# G at 224 x 224. ScalableViT's paper leaves out the products of queries with keys and of weights
# with values, which are 0.18, 0.26 and 0.33 of ours.
PUBLISHED_MACS = {
    'dat_t': 4.6, 'dat_s': 9.0, 'dat_b': 15.8, 'dat_pp_t': 4.3, 'dat_pp_s': 9.4, 'dat_pp_b': 16.6,
    'scalablevit_s': 4.2, 'scalablevit_b': 8.6, 'scalablevit_l': 14.7,
}


def complexity_of(name: str, *shape: int) -> Complexity:
    return count_complexity(load_config(ROOT / 'configs' / f'{name}.py'), shape or None)


@pytest.mark.parametrize('name', PUBLISHED_MACS)
def test_a_classifier_costs_what_its_paper_says(name: str) -> None:
    complexity = complexity_of(f'{name}_in1k')
    assert complexity.shape == (224, 224)
    tolerance = 0.03 if name.startswith('scalablevit') else 0.01
    assert complexity.macs == pytest.approx(1e9 * PUBLISHED_MACS[name], rel=tolerance)
    assert complexity.backbone_macs == pytest.approx(complexity.macs, rel=0.01)
    assert complexity.not_counted == ()


def test_a_detector_is_counted_through_its_heads(config: Path) -> None:
    complexity = count_complexity(load_config(config), (96,))
    assert complexity.shape == (96, 96)
    assert 0 < complexity.backbone_parameters < complexity.parameters
    assert 0 < complexity.backbone_macs < complexity.macs
    assert complexity.not_counted == ('RoIAlign',)


def test_a_segmentor_is_counted_through_its_head() -> None:
    options = {'model.backbone.arch': 'nano', 'model.neck.in_channels': [16, 32, 64, 128]}
    cfg = load_config(ROOT / 'configs' / 'semantic_fpn_dat_pp_t_ade20k.py', options)
    narrow, wide = (count_complexity(cfg, shape) for shape in ((64, 128), (64, 256)))
    assert 0 < narrow.backbone_macs < narrow.macs
    head = [complexity.macs - complexity.backbone_macs for complexity in (narrow, wide)]
    assert head[1] == 2 * head[0]


def test_a_classifier_is_counted_at_the_size_of_its_pictures() -> None:
    assert image_shape(load_config(ROOT / 'configs' / 'dat_b_384_in1k.py')) == (384, 384)


@pytest.mark.parametrize('shape', [(0,), (-1, 5), (1, 2, 3), ()])
def test_what_is_no_shape_is_refused(shape: tuple[int, ...], config: Path) -> None:
    with pytest.raises(UserError, match='--shape takes a height and a width'):
        count_complexity(load_config(config), shape)


def test_a_config_of_no_toolbox_is_refused(config: Path) -> None:
    config.write_text(config.read_text() + "default_scope = 'mmocr'")
    with pytest.raises(UserError, match="default_scope='mmocr': it must be one of 'mmdet', 'mms"):
        load_config(config)


def test_the_table_ends_with_what_is_missing_from_it(
        config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_complexity(count_complexity(load_config(config), (64,)))
    printed = capsys.readouterr().out
    assert 'One image of 64 x 64' in printed
    assert printed.splitlines()[-1].endswith(' in RoIAlign')
