#!/usr/bin/env python
"""Evaluate a checkpoint: ``tools/test.py CONFIG CHECKPOINT``."""
import argparse
import os

from mmengine.config import DictAction

from mmdat.apis import command_line, test


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--work-dir', help='folder for the log')
    parser.add_argument('--out', metavar='PKL', help='file for the predictions')
    parser.add_argument('--show-dir', help="folder for pictures of the predictions, in the log's")
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='values to put into the config, such as test_dataloader.batch_size=4')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help='set by torch.distributed.launch')
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    args = parse_args()
    test(args.config, args.checkpoint, args.work_dir, args.out, args.show_dir, args.tta,
         args.cfg_options, args.launcher)


if __name__ == '__main__':
    command_line(main)
