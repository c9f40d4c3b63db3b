"""Options of the authors' configs build our backbones, or say what does not fit."""

import re

import pytest
from helpers import golden
from helpers.imports import ROOT

from mmdat.errors import UserError
from mmdat.models import DAT, ScalableViT
from mmdat.models.backbones import dat_published, scalablevit_published
from mmdat.models.backbones.published_options import COMMON_OPTIONS


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


def test_published_options_may_say_how_many_channels_the_images_have() -> None:
    options = golden.load('scalablevit_nano')['options']
    assert ScalableViT.from_published(**options | dict(in_chans=4)).in_channels == 4
    assert ScalableViT.from_published(**options | dict(in_chans=4), in_channels=1).in_channels == 1
    assert DAT.from_published(**golden.load('dat_nano')['options'], in_channels=2).in_channels == 2


@pytest.mark.parametrize(
    'title, family, fixture, options',
    [
        ('DAT and DAT++', DAT, 'dat_pp_nano', dat_published.OPTIONS),
        ('ScalableViT', ScalableViT, 'scalablevit_nano', scalablevit_published.OPTIONS),
    ],
)
def test_the_page_has_a_row_for_each_option(
    title: str, family: type, fixture: str, options: frozenset[str]
) -> None:
    page = (ROOT / 'docs/published_options.md').read_text()
    section = page.split(f'## {title}\n')[1].split('\n## ')[0] + page.split('## Both\n')[1]
    rows = [line.split('|')[1:3] for line in section.splitlines() if line.startswith('| `')]
    theirs = {name for row in rows for name in re.findall(r'`(\w+)`', row[0])}
    assert theirs == options | COMMON_OPTIONS | {'drop_path_rate'}
    ours = {name for row in rows for name in re.findall(r'`arch\.(\w+)`', row[1])}
    published = family.from_published(**golden.load(fixture)['options'])
    assert ours == {*vars(published.settings[0])}
