"""A config that cannot be read is refused in a sentence with the file and the line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmdat.checks.config_file import read_config
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
            r'config .* cannot be read: Failed to import nowhere',
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
        ({'pipeline.9.type': 'x'}, r'--cfg-options do not fit config .*config.py: .*Index 9'),
        (
            {'train_dataloder.batch_size': 1},
            r"unknown key 'train_dataloder.batch_size' in --cfg-options: "
            r"did you mean 'train_dataloader'",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / 'config.py'
    path.write_text('pipeline = [dict()]')
    assert read_config(path, {'pipeline.0.type': 'x', 'model.type': 'y'}).pipeline[0].type == 'x'
    with pytest.raises(UserError, match=sentence):
        read_config(path, options)
