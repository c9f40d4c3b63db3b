"""The model zoo page says what was measured, of every config that there is."""
import json
import runpy
from pathlib import Path

import pytest
import zoo
from products import products_of_attention, projections_of_padding

DOCS = zoo.CONFIGS.parent / 'docs'
MODEL_ZOO = runpy.run_path(str(DOCS / 'model_zoo.py'))
MEASURED = json.loads(Path(MODEL_ZOO['MEASURED']).read_text())
# Millions. ScalableViT-S has 0.4 million fewer than published, though its backbone has as many as
# the authors' code.
PUBLISHED_PARAMETERS = {
    'retinanet_scalablevit_s_coco': 36.4, 'retinanet_scalablevit_b_coco': 85.6,
    'retinanet_scalablevit_l_coco': 112.6, 'mask_rcnn_scalablevit_s_coco': 46.3,
    'mask_rcnn_scalablevit_b_coco': 94.9, 'mask_rcnn_scalablevit_l_coco': 121.4,
    'upernet_scalablevit_s_ade20k': 56.5, 'upernet_scalablevit_b_ade20k': 107.0,
    'upernet_scalablevit_l_ade20k': 135.5, 'semantic_fpn_scalablevit_s_ade20k': 30.4,
    'semantic_fpn_scalablevit_b_ade20k': 79.0, 'semantic_fpn_scalablevit_l_ade20k': 105.5,
}

# G at 800 x 1280.
PUBLISHED_MACS = {
    'retinanet_scalablevit_s_coco': 238, 'retinanet_scalablevit_b_coco': 330,
    'retinanet_scalablevit_l_coco': 457, 'mask_rcnn_scalablevit_s_coco': 256,
    'mask_rcnn_scalablevit_b_coco': 349, 'mask_rcnn_scalablevit_l_coco': 477,
}
ARCHITECTURES = dict(s='small', b='base', l='large')


def test_the_page_is_made_from_what_was_measured() -> None:
    assert (DOCS / 'model_zoo.md').read_text() == MODEL_ZOO['page'](MEASURED)


def test_every_config_was_measured() -> None:
    configs = {path.stem for path in zoo.CONFIGS.glob('*.py')
               if not path.stem.endswith('_shapes')}
    assert configs == MEASURED.keys()


def test_what_is_reported_is_of_configs_that_there_are() -> None:
    names = {name.rpartition('_')[0] for name in MEASURED}
    assert MODEL_ZOO['REPORTED'].keys() <= names


@pytest.mark.parametrize('name', PUBLISHED_PARAMETERS)
def test_models_have_the_published_parameters(name: str) -> None:
    measured = MEASURED[name]['parameters'] / 1e6
    allowed = 0.45 if '_s_' in name else 0.06
    assert measured == pytest.approx(PUBLISHED_PARAMETERS[name], abs=allowed)


@pytest.mark.parametrize('name', PUBLISHED_MACS)
def test_detectors_have_the_published_macs_where_padding_counts_and_products_do_not(
        name: str) -> None:
    shape, arch = MEASURED[name]['shape'], ARCHITECTURES[name.split('_')[-2]]
    macs = (MEASURED[name]['macs'] - products_of_attention(arch, *shape)
            + projections_of_padding(arch, *shape))
    allowed = 2 if arch == 'small' else 0.6
    assert macs / 1e9 == pytest.approx(PUBLISHED_MACS[name], abs=allowed)
