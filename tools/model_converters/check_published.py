#!/usr/bin/env python
"""Say whether a published checkpoint fits a config: ``check_published.py CONFIG FILE``."""

import argparse
import sys

try:
    from mmdat.apis import command_line
    from mmdat.apis.convert import compare_published_file, print_places
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Say, tensor by tensor, whether a checkpoint of the authors of DAT, DAT++ or '
        'ScalableViT fits the model of a config; status 1 if it does not'
    )
    parser.add_argument('config', help='path of the config, or mmdat::NAME.py')
    parser.add_argument('file', help='path of the checkpoint, or mmdat://NAME')
    args = parser.parse_args()
    print_places(compare_published_file(args.config, args.file), args.config, args.file)


if __name__ == '__main__':
    command_line(main)
