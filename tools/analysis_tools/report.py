#!/usr/bin/env python
"""Draw predictions beside the truth and tabulate how good they are, from tools/test.py --out."""

import argparse
import shlex
import sys

try:
    from mmdat.analysis.report import print_report, write_report
    from mmdat.apis import command_line
    from mmdat.visualization.comparison import SCORE_THRESHOLD
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of the model')
    parser.add_argument('results', help='pickle that tools/test.py --out wrote')
    parser.add_argument('--out-dir', help='folder of the report (that of the results)')
    parser.add_argument('--num-images', type=int, default=8, help='number of pictures')
    parser.add_argument(
        '--score-thr', type=float, default=SCORE_THRESHOLD, help='least score of what is drawn'
    )
    parser.add_argument(
        '--checkpoint',
        help="weights to show deformed points of (the work dir's last, if the results are in it)",
    )
    args = parser.parse_args()
    report = write_report(
        args.config,
        args.results,
        args.out_dir,
        args.num_images,
        args.score_thr,
        command=shlex.join(sys.argv),
        checkpoint=args.checkpoint,
    )
    print_report(report)


if __name__ == '__main__':
    command_line(main)
