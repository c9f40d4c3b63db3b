"""The model zoo page says what was measured, of every config that there is."""

import json
import runpy
from pathlib import Path

import pytest
from helpers import zoo
from helpers.products import products_of_attention, projections_of_padding

DOCS = zoo.CONFIGS.parent / 'docs'
MODEL_ZOO = runpy.run_path(str(DOCS / 'model_zoo.py'))
MEASURED = json.loads(Path(MODEL_ZOO['MEASURED']).read_text())
PUBLISHED_COST = MODEL_ZOO['PUBLISHED_COST']
ARCHITECTURES = dict(s='small', b='base', l='large')


def test_the_page_is_made_from_what_was_measured() -> None:
    assert (DOCS / 'model_zoo.md').read_text() == MODEL_ZOO['page'](MEASURED)


def test_every_config_was_measured() -> None:
    configs = {path.stem for path in zoo.CONFIGS.glob('*.py') if not path.stem.endswith('_shapes')}
    assert configs == MEASURED.keys()


def test_what_is_reported_is_of_configs_that_there_are() -> None:
    names = {name.rpartition('_')[0] for name in MEASURED}
    assert MODEL_ZOO['REPORTED'].keys() <= names


@pytest.mark.parametrize('name', PUBLISHED_COST)
def test_models_have_the_published_parameters(name: str) -> None:
    measured = MEASURED[name]['parameters'] / 1e6
    allowed = 0.45 if '_s_' in name else 0.06
    assert measured == pytest.approx(PUBLISHED_COST[name][0], abs=allowed)


@pytest.mark.parametrize('name', PUBLISHED_COST)
def test_models_have_the_published_macs_where_padding_counts_and_products_do_not(name: str) -> None:
    shape, arch = MEASURED[name]['shape'], ARCHITECTURES[name.split('_')[-2]]
    macs = (
        MEASURED[name]['macs']
        - products_of_attention(arch, *shape)
        + projections_of_padding(arch, *shape)
    )
    allowed = 2 if arch == 'small' else 1
    assert macs / 1e9 == pytest.approx(PUBLISHED_COST[name][1], abs=allowed)
