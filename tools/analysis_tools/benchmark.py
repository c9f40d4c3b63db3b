#!/usr/bin/env python
"""Time a config's model on synthetic images: ``benchmark.py CONFIG``."""

import argparse
import sys

try:
    from mmdat.analysis.speed import measure_speed, print_speed
    from mmdat.apis import command_line
    from mmdat.apis.cli import add_cfg_options, add_shape
    from mmdat.apis.model import load_config
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Images a second and peak memory of the model of a config, on synthetic images'
    )
    parser.add_argument('config', help='path of the config, of mmdet, mmseg or mmpretrain')
    parser.add_argument('--checkpoint', help='weights (random ones)')
    add_shape(parser)
    parser.add_argument('--batch-size', type=int, default=1, help='images in a batch (1)')
    parser.add_argument('--train', action='store_true', help='a training step, not inference')
    parser.add_argument('--amp', action='store_true', help='run in mixed precision')
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ... (a GPU if there is one)')
    parser.add_argument('--repeat-num', type=int, default=10, help='runs that are timed (10)')
    parser.add_argument('--num-warmup', type=int, default=2, help='runs before them (2)')
    add_cfg_options(parser)
    args = parser.parse_args()
    print_speed(
        measure_speed(
            load_config(args.config, args.cfg_options),
            args.shape,
            args.batch_size,
            checkpoint=args.checkpoint,
            device=args.device,
            train=args.train,
            amp=args.amp,
            repeats=args.repeat_num,
            warmup=args.num_warmup,
        )
    )


if __name__ == '__main__':
    command_line(main)
