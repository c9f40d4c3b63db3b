#!/usr/bin/env python
"""Draw what attention looks at: ``tools/visualize.py IMAGE CONFIG CHECKPOINT``."""

import argparse
import sys

try:
    from mmdat.apis import command_line
    from mmdat.apis.cli import add_cfg_options
    from mmdat.apis.predict import print_summary
    from mmdat.apis.visualize import write_attention
    from mmdat.errors import UserError
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def parse_query(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(','))
    except ValueError:
        raise UserError(f'--query takes X,Y in pixels, such as 320,240, got {text}') from None
    return x, y


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw where deformable attention samples, and what queries attend to'
    )
    parser.add_argument('image', help="an image, folder, pattern such as 'photos/**/*.jpg' or URL")
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument(
        '--query',
        nargs='+',
        default=[],
        metavar='X,Y',
        help='pixels whose attention is drawn (the center)',
    )
    parser.add_argument(
        '--stage', nargs='+', type=int, default=[], help='stages to draw, from 1 (all)'
    )
    parser.add_argument('--out', default='attention', help='folder to write (attention)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda:0 and so on (cpu)')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    summary = write_attention(
        args.config,
        args.checkpoint,
        args.image,
        args.out,
        queries=[parse_query(text) for text in args.query],
        stages=[stage - 1 for stage in args.stage],
        device=args.device,
        cfg_options=args.cfg_options,
    )
    print_summary(summary, 'Drawn')


if __name__ == '__main__':
    command_line(main)
