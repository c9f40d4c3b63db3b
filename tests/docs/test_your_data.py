"""The commands and configs of docs/your_data.md and README run, with nano models on few images."""

import re
import shlex
from pathlib import Path

import pytest
from helpers.imports import ROOT
from helpers.scripts import run_tool
from mmengine.config import Config

from mmdat.checks.config_tree import paths, value_at
from mmdat.datasets import ShapesParameters, write_shapes_coco
from mmdat.datasets.shapes.classify import write_shapes_classify
from mmdat.datasets.shapes.segment import write_shapes_segment

README = (ROOT / 'README.md').read_text().split('\n## Your data\n')[1].split('\n## ')[0]
PAGE = (ROOT / 'docs/your_data.md').read_text()
DATA = dict(parts=write_shapes_coco, streets=write_shapes_segment, pets=write_shapes_classify)
NANO = {
    'mask_rcnn_dat_pp_t_coco': 'mask_rcnn_dat_pp_nano_shapes',
    'upernet_dat_pp_t_ade20k': 'upernet_dat_pp_nano_shapes',
    'dat_pp_t_in1k': 'dat_pp_nano_shapes',
    'epoch_100': 'epoch_1',
}
# Two images a split, and one epoch or step.
FAST = [
    *(f'{s}_dataloader.{v}' for s in ('train', 'val', 'test')
      for v in ('num_workers=0', 'persistent_workers=False', 'dataset.indices=2')),
    'param_scheduler=[]', 'default_hooks.checkpoint.interval=1', 'log_level=ERROR',
]  # fmt: skip


def blocks(language: str, page: str = PAGE) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', page, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home and current folder, with data of each task."""
    for name, write in DATA.items():
        write(tmp_path / name, ShapesParameters(train=2, val=2, size=64))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    return tmp_path


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, nano in NANO.items():
        command = command.replace(name, nano)
    tool, *arguments = shlex.split(command)
    if tool != 'tools/new_config.py':
        unit = 'max_iters' if 'streets' in command else 'max_epochs'
        fast = [*FAST, f'train_cfg.{unit}=1', 'train_cfg.val_interval=1']
        arguments += ['--cfg-options', *fast]
    arguments = [re.sub('^configs/', f'{ROOT}/configs/', text) for text in arguments]
    arguments = [str(Path(text).expanduser()) if text[0] == '~' else text for text in arguments]
    run_tool(monkeypatch, tool, *arguments)


def test_commands_run_and_configs_say_what_the_page_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in blocks('python'):
        name = text.split('\n')[0].removeprefix('# ')
        (folder / name).write_text(text)
    lines = [line for text in blocks('shell', README + PAGE) for line in text.splitlines()]
    commands = dict.fromkeys(lines)
    assert len(commands) == 10
    for command in commands:
        run(command, monkeypatch)
    long, batch, small = (
        Config.fromfile(folder / f'my_parts_{name}.py') for name in ('long', 'batch', 'small')
    )
    assert long.train_cfg.max_epochs == long.param_scheduler[-1].end == 200
    assert batch.train_dataloader.batch_size == batch.auto_scale_lr.base_batch_size == 8
    scales = {
        path: value_at(small, path)
        for path in paths(small, 'scale')
        if path.split('.')[0].endswith(('dataloader', 'pipeline'))
    }
    assert set(scales.values()) == {(640, 640)}
    loaded = {path.split('.')[0] for path in scales}
    assert {f'{s}_dataloader' for s in ('train', 'val', 'test')} | {'tta_pipeline'} <= loaded
