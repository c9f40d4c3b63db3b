"""Configs of mmdat as bases of others, by their name."""

import sys
from pathlib import Path

import pytest
from helpers.imports import ROOT
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from mmdat import config_bases
from mmdat.apis.runner import read_run_config
from mmdat.checks.config_file import read_config
from mmdat.errors import UserError


@pytest.mark.parametrize('name', ['mask_rcnn_dat_pp_t_coco', '_base_/models/upernet'])
def test_a_config_builds_on_one_of_mmdat(name: str, tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text(f"_base_ = 'mmdat::{name}.py'\nseen = _base_.model.type\n")
    cfg = Config.fromfile(tmp_path / 'own.py')
    base = Config.fromfile(ROOT / f'configs/{name}.py')
    assert cfg.seen == base.model.type
    assert cfg.to_dict() == {**base.to_dict(), 'seen': base.model.type}


def test_a_tool_that_has_not_imported_mmdat_does_so_for_a_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Config, '_get_cfg_path', staticmethod(Config._get_cfg_path.__wrapped__))
    monkeypatch.delitem(sys.modules, 'mmdat')
    name = 'dat_pp_nano_shapes.py'
    (tmp_path / 'own.py').write_text(f"_base_ = 'mmdat::{name}'")
    with pytest.raises(ValueError, match='please specify the package name'):
        Config.fromfile(tmp_path / 'own.py')
    (tmp_path / 'own.py').write_text(f"_base_ = __import__('mmdat').__name__ + '::{name}'")
    base = Config.fromfile(ROOT / f'configs/{name}')
    assert Config.fromfile(tmp_path / 'own.py').to_dict() == base.to_dict()


@pytest.mark.parametrize('name', ['mask_rcnn_dat_pp_tt_coco', 'MASK_RCNN_DAT_PP_T_COCO'])
def test_a_name_that_is_none_is_a_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text(f"_base_ = 'mmdat::{name}.py'")
    with pytest.raises(UserError, match=r"did you mean 'mmdat::mask_rcnn_dat_pp_t_coco\.py'\?"):
        read_config(tmp_path / 'own.py')


@pytest.mark.parametrize('scope, name', [('mmdet', 'schedule_1x'), ('mmseg', 'schedule_80k')])
def test_a_base_of_a_toolbox_is_found_beside_its_module(
    scope: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its model cards, and whatever its package is called, as in OneDL's builds."""
    monkeypatch.setattr('mmengine.config.config.is_installed', lambda package: False)
    (tmp_path / 'own.py').write_text(f"_base_ = '{scope}::_base_/schedules/{name}.py'")
    assert Config.fromfile(tmp_path / 'own.py').train_cfg.type.endswith('BasedTrainLoop')


def test_the_hub_finds_onedl_by_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_bases, 'version', lambda package: '1.4.2')
    monkeypatch.setattr(Config, '_get_cfg_path', staticmethod(Config._get_cfg_path))
    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmsegmentation')
    config_bases.patch_config()
    assert MODULE2PACKAGE['mmseg'] == 'mmseg'


def test_a_base_that_a_toolbox_does_not_have_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text("_base_ = 'mmdet::_base_/schedules/none.py'")
    with pytest.raises(UserError, match=r'_base_/schedules/none\.py" does not exist'):
        read_config(tmp_path / 'own.py')


def test_mmengine_still_refuses_such_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails, mmdat/config_bases.py can go, if types are then found in the toolbox."""
    monkeypatch.setitem(MODULE2PACKAGE, 'mmdat', 'mmdat')
    with pytest.raises(ValueError, match='please specify the package name'):
        Config._get_cfg_path.__wrapped__('mmdat::dat_t_in1k.py', '')


def test_tools_take_such_a_name_for_a_config() -> None:
    cfg = read_run_config('mmdat::dat_t_in1k.py', None, None, 'none')
    assert cfg.model.backbone.type == 'mmdat.DAT'
    assert cfg.work_dir == 'work_dirs/dat_t_in1k'
