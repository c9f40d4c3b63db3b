#!/usr/bin/env python
"""Export a model to ONNX or torch.export: ``tools/deployment/export.py CONFIG CHECKPOINT OUT``."""

import argparse
import sys

try:
    from mmdat.apis import command_line
    from mmdat.apis.cli import add_cfg_options
    from mmdat.apis.export import export
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def main() -> None:
    parser = argparse.ArgumentParser(description='Export a model to ONNX or torch.export')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('out', help='file to write, .onnx or .pt2')
    parser.add_argument(
        '--check', action='store_true', help='compare the file with the model, at three sizes'
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    export(args.config, args.checkpoint, args.out, args.check, args.cfg_options)


if __name__ == '__main__':
    command_line(main)
