#!/usr/bin/env python
"""Turn a published checkpoint into an ordinary one: ``convert_published.py IN OUT``."""

import argparse
import sys
from pathlib import Path

try:
    from mmdat.apis import command_line
    from mmdat.apis.convert import convert_published_file
    from mmdat.checks.run import check_writable
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Turn a checkpoint of the authors of DAT, DAT++ or ScalableViT into one of '
        'mmpretrain (for classifiers), mmdet 3.x or mmseg 1.x'
    )
    parser.add_argument('source', metavar='IN', help='checkpoint that the authors published')
    parser.add_argument('target', metavar='OUT', help='file to write')
    parser.add_argument(
        '--config',
        help='config of a model with the same backbone, for one that '
        'is not among the named architectures',
    )
    args = parser.parse_args()
    check_writable('OUT', Path(args.target).parent)
    backbone = convert_published_file(args.source, args.target, args.config)
    print(f'wrote {args.target}, of a model with {backbone}')


if __name__ == '__main__':
    command_line(main)
