#!/usr/bin/env python
"""Write a config for data of your own: ``tools/new_config.py BASE DATA OUT.py``."""

import argparse
import sys

try:
    from mmdat.apis import command_line
    from mmdat.apis.new_config import new_config
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Look at a folder of data and write a config that trains a model on it'
    )
    parser.add_argument('base', metavar='BASE', help='config of the model, one of configs/')
    parser.add_argument('data', metavar='DATA', help='folder of the data; it is left as it is')
    parser.add_argument('out', metavar='OUT', help='config to write, such as my_parts.py')
    parser.add_argument('--load-from', metavar='CHECKPOINT', help='weights to start from')
    parser.add_argument(
        '--val-share',
        type=float,
        default=0.2,
        help='share of the images to validate on, if the data does not say which (0.2)',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed that chooses them (0)')
    parser.add_argument(
        '--zero',
        choices=['background', 'ignored'],
        help='what 0 in masks is: a class, or nothing (found from the names and values)',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    lines = new_config(
        args.base,
        args.data,
        args.out,
        load_from=args.load_from,
        seed=args.seed,
        val_share=args.val_share,
        zero=args.zero,
    )
    print('\n'.join(lines))


if __name__ == '__main__':
    command_line(main)
