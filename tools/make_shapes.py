#!/usr/bin/env python
"""Draw the made data set of shapes: ``tools/make_shapes.py ROOT``."""
import argparse

from mmdat.apis import command_line
from mmdat.datasets.shapes_coco import ShapesParameters, write_shapes_coco


def parse_args() -> argparse.Namespace:
    default = ShapesParameters()
    parser = argparse.ArgumentParser(
        description='Draw a data set of shapes in COCO format; nothing to do if it is there',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('root', help='folder to draw into')
    parser.add_argument('--train', type=int, default=default.train, help='training images')
    parser.add_argument('--val', type=int, default=default.val, help='held-out images')
    parser.add_argument('--size', type=int, default=default.size, help='side in pixels')
    parser.add_argument('--seed', type=int, default=default.seed, help='of the random numbers')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    write_shapes_coco(args.root, ShapesParameters(args.train, args.val, args.size, args.seed))


if __name__ == '__main__':
    command_line(main)
