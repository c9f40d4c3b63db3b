"""A project of one toolbox uses all commands without the other two."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import one_toolbox
from helpers.one_toolbox import TASKS
from mmengine.config import Config

from mmdat.apis.toolboxes import toolbox_of
from mmdat.errors import UserError
from mmdat.stack import installed_version

WRITTEN = (
    'checked/*.png',
    'predictions/predictions.json',
    'predictions/pictures/*',
    'attention/*',
    'own.py',
    'report/report.html',
    'run/curves.png',
    'browsed/*.jpg',
    'model.pt2',
)


@pytest.mark.slow
@pytest.mark.parametrize('toolbox', TASKS)
def test_all_commands_run_with_one_toolbox(toolbox: str, tmp_path: Path) -> None:
    if installed_version(toolbox) is None:
        pytest.skip(f'{toolbox} is not installed')
    process = subprocess.run(
        [sys.executable, one_toolbox.__file__, toolbox, tmp_path], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-3000:]
    for pattern in WRITTEN:
        assert [*tmp_path.glob(pattern)], f'{pattern}: {process.stdout[-3000:]}'


def test_a_config_of_a_missing_toolbox_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / 'own.py'
    config.write_text("default_scope = 'mmseg'")
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    with pytest.raises(UserError, match=r'is for mmseg, but mmdat needs mmseg >= .* not installed'):
        toolbox_of(Config.fromfile(config))
