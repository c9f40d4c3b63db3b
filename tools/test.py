#!/usr/bin/env python
"""Evaluate a checkpoint: ``tools/test.py CONFIG CHECKPOINT``."""

import argparse
import sys

try:
    from mmdat.apis import command_line, parse_run_args, test
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--out', metavar='PKL', help='file for the predictions')
    parser.add_argument('--show-dir', help='folder for pictures, in the work dir')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    return parse_run_args(parser)


def main() -> None:
    args = parse_args()
    test(
        args.config,
        args.checkpoint,
        args.work_dir,
        args.out,
        args.show_dir,
        args.tta,
        args.cfg_options,
        args.launcher,
    )


if __name__ == '__main__':
    command_line(main)
