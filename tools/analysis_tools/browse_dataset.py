#!/usr/bin/env python
"""Draw what a config's model is fed: ``browse_dataset.py CONFIG --output-dir DIR --not-show``."""

import argparse
import sys

try:
    from mmdat.analysis.browse import browse_dataset
    from mmdat.apis import command_line
    from mmdat.apis.cli import add_cfg_options
    from mmdat.apis.model import load_config
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Draw what the model of a config is fed: images after the pipeline, with their '
        'annotations'
    )
    parser.add_argument('config', help='path of the config, of mmdet, mmseg or mmpretrain')
    parser.add_argument('--output-dir', help='folder to write the pictures to')
    parser.add_argument('--not-show', action='store_true', help='open no window')
    parser.add_argument(
        '--show-interval', type=float, default=2, help='seconds that each picture is shown (2)'
    )
    parser.add_argument(
        '--number', type=int, default=10, help='number of pictures, spaced evenly (10)'
    )
    parser.add_argument('--split', choices=['train', 'val'], default='train')
    add_cfg_options(parser)
    args = parser.parse_args()
    files = browse_dataset(
        load_config(args.config, args.cfg_options),
        args.output_dir,
        show=not args.not_show,
        number=args.number,
        split=args.split,
        interval=args.show_interval,
    )
    for file in files:
        print(file)


if __name__ == '__main__':
    command_line(main)
