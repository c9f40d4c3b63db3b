#!/usr/bin/env python
"""Predict images, folders, videos: ``tools/predict.py CONFIG CHECKPOINT INPUT [INPUT ...]``."""

import argparse
import sys

try:
    from mmdat.apis import command_line, write_predictions
    from mmdat.apis.cli import add_cfg_options
    from mmdat.apis.predict import print_summary
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Predict images and videos: pictures, masks and a file in COCO format'
    )
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='INPUT',
        help="an image, folder, pattern such as 'photos/**/*.jpg', video, camera's number or URL",
    )
    parser.add_argument('--out-dir', default='predictions', help='folder to write (predictions)')
    parser.add_argument(
        '--score-thr', type=float, help='least score of objects that are told (0.3)'
    )
    parser.add_argument('--batch-size', type=int, default=1, help='images that run together (1)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda:0 and so on (cpu)')
    parser.add_argument(
        '--slice',
        type=int,
        metavar='PIXELS',
        help='predict larger images in square tiles of that side, such as 640, and merge',
    )
    parser.add_argument('--overlap', type=float, help='share of a tile that the next has too (0.2)')
    parser.add_argument('--no-pictures', action='store_true', help='draw no pictures')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    summary = write_predictions(
        args.config,
        args.checkpoint,
        args.inputs,
        args.out_dir,
        pictures=not args.no_pictures,
        score_thr=args.score_thr,
        batch_size=args.batch_size,
        device=args.device,
        slice_size=args.slice,
        overlap=args.overlap,
        cfg_options=args.cfg_options,
    )
    print_summary(summary)


if __name__ == '__main__':
    command_line(main)
