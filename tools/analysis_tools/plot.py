#!/usr/bin/env python
"""Draw losses, learning rates and metrics of trainings: ``plot.py WORK_DIR [WORK_DIR ...]``."""

import argparse
import sys

try:
    from mmdat.apis import command_line
    from mmdat.apis.curves import read_log, write_curves
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Draw losses, learning rates and validation metrics of trainings, several in '
        'one picture; of each the last run in its work dir, with the runs that it resumed'
    )
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='work dir of a training')
    parser.add_argument(
        '--out', metavar='PNG', help='the picture (curves.png, of one training in its work dir)'
    )
    args = parser.parse_args()
    path = write_curves(args.work_dirs, args.out)
    for work_dir in args.work_dirs:
        print(f'{work_dir}: {" and ".join(read_log(work_dir).runs)}')
    print(f'Curves: {path.resolve()}')


if __name__ == '__main__':
    command_line(main)
