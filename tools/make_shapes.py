#!/usr/bin/env python
"""Draw a synthetic data set of shapes: ``tools/make_shapes.py ROOT [--task segment]``."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

try:
    from mmdat.apis import command_line
    from mmdat.datasets import ShapesParameters
    from mmdat.errors import UserError, enumerate_names
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')

# Task -> module that draws its data, and end of the name of the function there.
LAYOUTS = dict(detect='coco', segment='segment', classify='classify')
HELP = dict(
    train='training images',
    val='held-out images',
    size='side in pixels',
    seed='seed of the random numbers',
)


def layout(task: str) -> tuple[Callable[[Path, ShapesParameters], None], ShapesParameters]:
    """Function that draws the data of a task, and its default parameters."""
    if task not in LAYOUTS:
        raise UserError(f'--task {task} is none: give one of {enumerate_names(LAYOUTS)}')
    try:  # each needs another package of OpenMMLab
        module = import_module(f'mmdat.datasets.shapes.{LAYOUTS[task]}')
    except ImportError as error:
        raise UserError(f'--task {task} cannot be drawn without a package: {error}') from error
    return getattr(module, f'write_shapes_{LAYOUTS[task]}'), module.DEFAULT_PARAMETERS


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Draw a synthetic data set of shapes, unless it is there already'
    )
    parser.add_argument('root', help='folder to draw into')
    parser.add_argument(
        '--task',
        default='detect',
        help='detect (COCO format, the default), '
        "segment (ADE20K's layout) or classify (ImageNet's layout)",
    )
    for name, default in asdict(ShapesParameters()).items():
        parser.add_argument(f'--{name}', type=int, help=f'{HELP[name]} ({default} to detect)')
    args = parser.parse_args()
    write, default = layout(args.task)
    given = {name: getattr(args, name) for name in HELP if getattr(args, name) is not None}
    write(args.root, replace(default, **given))


if __name__ == '__main__':
    command_line(main)
