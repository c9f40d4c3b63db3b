#!/usr/bin/env python
"""Train a model: ``tools/train.py CONFIG``."""

import argparse
import sys

try:
    from mmdat.apis import command_line, parse_run_args, train
    from mmdat.checks.run import VIS_BACKENDS
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model')
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='latest',
        metavar='CHECKPOINT',
        help='go on from a checkpoint, from the latest in the work dir if none is named; '
        '"auto" starts anew where there is none',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (GPU)')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate to the batch size'
    )
    parser.add_argument(
        '--vis-backend',
        action='append',
        default=[],
        choices=VIS_BACKENDS,
        help='where losses and metrics go besides files; can be given several times',
    )
    return parse_run_args(parser)


def main() -> None:
    args = parse_args()
    train(
        args.config,
        args.work_dir,
        args.resume,
        args.amp,
        args.auto_scale_lr,
        args.cfg_options,
        args.launcher,
        args.vis_backend,
    )


if __name__ == '__main__':
    command_line(main)
