"""Run the commands with one toolbox of OpenMMLab, without the others, on drawings of its task.

``python one_toolbox.py mmseg FOLDER`` writes into the folder. It hides the other
toolboxes, if they are installed, and needs nothing that tests need.
"""

import os
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Task(NamedTuple):
    """What a toolbox is for: the task that is drawn, its config, and where that finds the data."""

    name: str
    config: str
    variable: str
    images: str
    limit: str


TASKS = dict(
    mmdet=Task(
        'detect', 'mask_rcnn_dat_pp_nano_shapes', 'SHAPES_ROOT', 'val', 'train_cfg.max_epochs=1'
    ),
    mmseg=Task(
        'segment',
        'upernet_dat_pp_nano_shapes',
        'SHAPES_SEGMENT_ROOT',
        'images/validation',
        'train_cfg.max_iters=2',
    ),
    mmpretrain=Task(
        'classify', 'dat_pp_nano_shapes', 'SHAPES_CLASSIFY_ROOT', 'val', 'train_cfg.max_epochs=1'
    ),
)
SMALL = [
    f'{split}_dataloader.{key}'
    for split in ('train', 'val', 'test')
    for key in ('num_workers=0', 'persistent_workers=False')
]


class Hidden:
    """Finder of modules that says of some packages that they are not there."""

    def __init__(self, packages: set[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split('.')[0] in self.packages:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)


def run(script: str, *arguments: object) -> None:
    """Run a script of tools as a user does, in this process."""
    print(f'--- {script}', flush=True)
    sys.argv = [script, *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')
    except SystemExit as end:
        if end.code:
            raise


def main() -> None:
    """Draw data, train, and use the model with each command."""
    toolbox, folder = sys.argv[1:]
    sys.meta_path.insert(0, Hidden({*TASKS} - {toolbox}))
    task = TASKS[toolbox]
    os.chdir(folder)
    data, config = Path('data').absolute(), ROOT / f'configs/{task.config}.py'
    images = data / task.images
    os.environ[task.variable] = str(data)
    run('make_shapes.py', data, '--task', task.name, '--train', 4, '--val', 4, '--size', 64)
    run('check_data.py', config, '--out-dir', 'checked')
    run('train.py', config, '--work-dir', 'run', '--cfg-options', task.limit, *SMALL)
    checkpoint = Path('run/last_checkpoint').read_text()
    used = (config, checkpoint)
    run('test.py', *used, '--work-dir', 'run', '--out', 'results.pkl', '--show-dir', 'shown')
    run('predict.py', *used, images, '--out-dir', 'predictions')
    run('visualize.py', next(images.rglob('*.jpg')), *used, '--out', 'attention')
    run('new_config.py', config, data, 'own.py')
    run('check_data.py', 'own.py', '--out-dir', 'checked_own')
    run('analysis_tools/report.py', config, 'results.pkl', '--out-dir', 'report')
    run('analysis_tools/plot.py', 'run')
    run('analysis_tools/browse_dataset.py', config, '--output-dir', 'browsed', '--not-show')
    run('analysis_tools/get_flops.py', config, '--shape', 64)
    run('analysis_tools/benchmark.py', config, '--shape', 64, '--batch-size', 2, '--repeat-num', 1)
    run('deployment/export.py', *used, 'model.pt2', '--check')


if __name__ == '__main__':
    main()
