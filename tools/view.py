#!/usr/bin/env python
"""See what models see, in a browser: ``tools/view.py CONFIG CHECKPOINT [CONFIG ...]``."""

import argparse
import sys

try:
    from mmdat.apis import command_line
    from mmdat.apis.view import HOST, view
    from mmdat.errors import UserError
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def main() -> None:
    parser = argparse.ArgumentParser(
        description='A page on this machine: predictions in an image, and what a pixel attends to'
    )
    parser.add_argument(
        'models',
        nargs='+',
        metavar='CONFIG CHECKPOINT',
        help='path of a config and of its checkpoint; more pairs to switch between',
    )
    parser.add_argument('--examples', metavar='FOLDER', help='images to choose from')
    parser.add_argument(
        '--host',
        default=HOST,
        help='address of this machine to listen on; 0.0.0.0 in a container (%(default)s)',
    )
    parser.add_argument('--port', type=int, help='of the host (the first free one from 7860)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda:0 and so on (cpu)')
    args = parser.parse_args()
    if len(args.models) % 2:
        raise UserError(f'{args.models[-1]} has no checkpoint: give CONFIG CHECKPOINT pairs')
    pairs = list(zip(args.models[::2], args.models[1::2], strict=True))
    view(pairs, args.examples, host=args.host, port=args.port, device=args.device)


if __name__ == '__main__':
    command_line(main)
