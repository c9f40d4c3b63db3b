"""The model zoo page says what was measured, of every config that there is."""

import json
import runpy
from pathlib import Path

import pytest
import yaml
from helpers import zoo
from helpers.meta import count_on_meta
from helpers.products import products_of_attention, projections_of_padding

from mmdat.checkpoints.published import PUBLISHED

DOCS = zoo.CONFIGS.parent / 'docs'
MODEL_ZOO = runpy.run_path(str(DOCS / 'model_zoo.py'))
MEASURED = json.loads(Path(MODEL_ZOO['MEASURED']).read_text())
PUBLISHED_COST = MODEL_ZOO['PUBLISHED_COST']
ARCHITECTURES = dict(s='small', b='base', l='large')


def test_the_page_is_made_from_what_was_measured() -> None:
    assert (DOCS / 'model_zoo.md').read_text() == MODEL_ZOO['page'](MEASURED)


def test_the_cards_are_made_from_the_same_and_from_the_table_of_published_weights() -> None:
    text = (zoo.CONFIGS / 'metafile.yml').read_text()
    assert text == MODEL_ZOO['metafile'](MEASURED)
    cards = {card['Name']: card for card in yaml.safe_load(text)['Models']}
    assert cards.keys() == {path.stem for path in zoo.CONFIGS.glob('*.py')}
    for name, card in cards.items():
        metadata, cost = card['Metadata'], MEASURED[name]
        assert (metadata['Parameters'], metadata['MACs']) == (cost['parameters'], cost['macs'])
        memory = metadata['Inference Memory (GB)']
        assert memory == pytest.approx(cost['peak_memory'] / 1e9, abs=6e-4)
        assert 4e-9 * cost['parameters'] < memory < 6, 'of weights alone'
        assert metadata.get('Checkpoint') == (f'mmdat://{name}' if name in PUBLISHED else None)
        for result in card.get('Results', ()):
            assert all(metric.endswith('reported by the authors') for metric in result['Metrics'])


def test_every_config_was_counted() -> None:
    assert {path.stem for path in zoo.CONFIGS.glob('*.py')} == MEASURED.keys()


def test_what_was_written_is_what_is_counted() -> None:
    assert zoo.cost('dat_pp_nano_shapes') == MEASURED['dat_pp_nano_shapes']


def test_what_is_reported_is_of_configs_that_there_are() -> None:
    names = {name.rpartition('_')[0] for name in MEASURED}
    assert MODEL_ZOO['REPORTED'].keys() <= names


@pytest.mark.parametrize(
    'name',
    [
        name if '_s_' in name else pytest.param(name, marks=pytest.mark.slow)
        for name in PUBLISHED_COST
    ],
)
def test_models_cost_what_was_measured_and_published(name: str) -> None:
    measured = MEASURED[name]
    shape, arch = tuple(measured['shape']), ARCHITECTURES[name.split('_')[-2]]
    two_stage = name.startswith('mask_rcnn')
    parameters, macs = count_on_meta(name, shape, backbone_only=two_stage)
    assert parameters == measured['parameters']
    assert macs == measured['backbone_macs' if two_stage else 'macs']
    # The paper counts padding but not the products of attention.
    counted_as_published = (
        measured['macs']
        - products_of_attention(arch, *shape)
        + projections_of_padding(arch, *shape)
    )
    published_parameters, published_macs = PUBLISHED_COST[name]
    small = arch == 'small'
    assert parameters / 1e6 == pytest.approx(published_parameters, abs=0.45 if small else 0.06)
    assert counted_as_published / 1e9 == pytest.approx(published_macs, abs=2 if small else 1)
