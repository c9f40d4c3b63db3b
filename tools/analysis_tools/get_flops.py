#!/usr/bin/env python
"""Count parameters, MACs and memory of a config's model: ``get_flops.py CONFIG``."""

import argparse
import sys

try:
    from mmdat.analysis.flops import count_complexity, print_complexity
    from mmdat.apis import command_line
    from mmdat.apis.cli import add_cfg_options, add_shape
    from mmdat.apis.model import load_config
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Count parameters and multiply-accumulates (MACs) of the model of a config, '
        'for one image'
    )
    parser.add_argument('config', help='path of the config, of mmdet, mmseg or mmpretrain')
    add_shape(parser)
    add_cfg_options(parser)
    args = parser.parse_args()
    print_complexity(count_complexity(load_config(args.config, args.cfg_options), args.shape))


if __name__ == '__main__':
    command_line(main)
