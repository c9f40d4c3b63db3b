#!/usr/bin/env python
"""Count parameters and multiply-accumulates of a config's model: ``get_flops.py CONFIG``."""

import argparse
import sys

try:
    from mmdat.analysis.flops import count_complexity, print_complexity
    from mmdat.analysis.model import load_config
    from mmdat.apis import command_line
    from mmdat.apis.cli import ConfigOptions
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Count parameters and multiply-accumulates (MACs) of the model of a config, '
        'for one image'
    )
    parser.add_argument('config', help='path of the config, of mmdet, mmseg or mmpretrain')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help='height and width, or one number for both (800 1280 for detection, '
        "512 512 for segmentation, the config's for classification)",
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='values to put into the config',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    print_complexity(count_complexity(load_config(args.config, args.cfg_options), args.shape))


if __name__ == '__main__':
    command_line(main)
