"""A config that cannot be read is refused in a sentence with the file and the line."""

import copy
import locale
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmdat.checks.config_file import read_config
from mmdat.checks.config_keys import check_keys
from mmdat.errors import UserError


def write_base(config: Path, text: str) -> None:
    config.with_name('base.py').write_text(text)
    config.write_text("_base_ = './base.py'")


@pytest.mark.parametrize(
    'spoil, sentence',
    [
        (Path.unlink, r'config .*config.py does not exist'),
        (
            lambda config: config.write_text('model = dict('),
            r'config .*config.py is not valid Python: .* in line 1',
        ),
        (
            lambda config: config.write_text('\n\n1 / 0'),
            r'config .* cannot be read: division by zero in line 3',
        ),
        (
            lambda config: config.write_text("custom_imports = dict(imports=['nowhere'])"),
            r'config .* read: Failed to import nowhere \(No module named .*: install it, or add',
        ),
        (
            lambda config: write_base(config, 'model = dict('),
            r"config .*/base.py is not valid Python: '\(' was never closed in line 1",
        ),
        (
            lambda config: config.write_text("_base_ = './coco_9x.py'"),
            r'config .* cannot be read: .*coco_9x.py',
        ),
        (
            lambda config: config.write_bytes(b'\xef\xbb\xbfmodel = dict()'),
            r'config.py is not valid Python: it begins with a byte order mark; save it as UTF-8',
        ),
        (
            lambda config: config.write_text('# Größe', encoding='latin-1'),
            r'config .*config.py is not text in UTF-8: save it so',
        ),
        (
            lambda config: config.write_text(
                '_base_ = []\nimport pathlib\na = [dict(b=pathlib.Path())]'
            ),
            r'config .*config.py has a PosixPath as a.0.b, which no copy .* hold: write str\(...\)',
        ),
        (
            lambda config: config.write_text('_base_ = []\nimport numpy\nmean = numpy.zeros(3)'),
            r'config .*config.py has a ndarray as mean, which .* can hold: write .tolist\(\)',
        ),
        (
            lambda config: write_base(config, "data_root = '{{$FOLDER:data}}'"),
            r'base.py is not valid Python with the values of the environment variables FOLDER',
        ),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(
    spoil: Callable[[Path], object], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('FOLDER', "it's")
    path = tmp_path / 'config.py'
    path.touch()
    spoil(path)
    with pytest.raises(UserError, match=sentence) as caught:
        read_config(path)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'options, sentence',
    [
        (
            {'custom_hooks.9.type': 'x', 'model.type': 'y'},
            r"--cfg-options do not fit config .*config.py: 'custom_hooks.9.type': .*Index 9",
        ),
        (
            {'custom_hooks': None, 'custom_hooks.0.type': 'x'},
            r"config.py: 'custom_hooks' and 'custom_hooks.0.type': ",
        ),
        (
            {'custom_imports.imports': ['nowhere']},
            r"'custom_imports' in .* cannot be used: Failed to import nowhere \(No .* PYTHONPATH",
        ),
        ({'custom_imports.modules': 'os'}, r"'custom_imports' in .* keyword argument 'modules'"),
        (
            {'train_dataloder.batch_size': 1},
            r"unknown key 'train_dataloder.batch_size' in --cfg-options: "
            r"did you mean 'train_dataloader'",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / 'config.py'
    path.write_text('custom_hooks = [dict()]')
    cfg = read_config(path, {'custom_hooks.0.type': 'x', 'model.type': 'y'})
    assert cfg.custom_hooks[0].type == 'x' and cfg.model.type == 'y'
    with pytest.raises(UserError, match=sentence):
        read_config(path, options)


def test_modules_that_options_name_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'config.py'
    path.touch()
    path.with_name('named_by_an_option.py').touch()
    monkeypatch.syspath_prepend(tmp_path)
    read_config(path, {'custom_imports.imports': ['named_by_an_option']})
    assert sys.modules.pop('named_by_an_option')
    read_config(path, {'custom_imports': None})


def test_options_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / 'config.py'
    path.write_text("val_dataloader = dict(dataset=dict(pipeline=[dict(type='A')]))")
    given: dict = {'val_dataloader': dict(num_workers=0), 'val_dataloader.dataset.test_mode': True}
    options = copy.deepcopy(given)
    cfg = read_config(path, options)
    assert cfg.val_dataloader.dataset.test_mode
    cfg.val_dataloader.num_workers = 2
    assert options == given


def test_a_config_is_read_whatever_the_locale_its_name_and_its_line_ends(tmp_path: Path) -> None:
    base = tmp_path / 'Größe 中 {}%s [1]' / 'a b.py'
    base.parent.mkdir()
    base.write_bytes(b"name = 'gr\xc3\xbcn'\r\nmodel = dict(type='X')\r\n")
    leaf = base.with_name('leaf.py')
    leaf.write_bytes(b"_base_ = './a b.py'\r\nname = 'blau'  # wei\xc3\x9f\r\nfoo = 1\r\n")
    usual = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, 'C')
    try:
        cfg = read_config(leaf)
        with pytest.raises(UserError, match="unknown key 'foo' in config .*Größe 中"):
            check_keys(cfg)
    finally:
        locale.setlocale(locale.LC_CTYPE, usual)
    assert cfg.name == 'blau'


@pytest.mark.parametrize('address', ['https://host/config.py', 'file:///config.py', 's3://a/b.py'])
def test_a_config_at_a_web_address_is_refused(address: str, tmp_path: Path) -> None:
    sentence = f'config {address} is at a web address: a config is code'
    with pytest.raises(UserError, match=sentence):
        read_config(address)
    (tmp_path / 'config.py').write_text(f"_base_ = '{address}'")
    with pytest.raises(UserError, match='cannot be read'):
        read_config(tmp_path / 'config.py')


def test_a_checkpoint_in_place_of_the_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'epoch_1.pth').touch()
    with pytest.raises(UserError, match='epoch_1.pth is a checkpoint: give the config there'):
        read_config(tmp_path / 'epoch_1.pth')
