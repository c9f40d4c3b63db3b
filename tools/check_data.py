#!/usr/bin/env python
"""Look for what is wrong with the data of a config before it is trained; status 1 if there is."""

import argparse
import sys

try:
    from mmdat.analysis.data import check_data, print_data_report
    from mmdat.apis import command_line
    from mmdat.apis.cli import add_cfg_options
    from mmdat.errors import UserError
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config, of mmdet, mmseg or mmpretrain')
    parser.add_argument(
        '--out-dir', help='folder for the pictures (work_dirs/NAME, as of a training)'
    )
    parser.add_argument('--num-images', type=int, default=12, help='number of pictures (12)')
    add_cfg_options(parser)
    args = parser.parse_args()
    report = check_data(args.config, args.out_dir, args.num_images, args.cfg_options)
    print_data_report(report)
    if report.errors:
        raise UserError(f'errors in the data of {args.config}: {len(report.errors)}, see above')


if __name__ == '__main__':
    command_line(main)
