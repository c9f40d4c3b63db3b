#!/usr/bin/env python
"""Evaluate a checkpoint: ``tools/test.py CONFIG CHECKPOINT``."""

import sys

try:
    from mmdat.commands import run_command
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')

if __name__ == '__main__':
    run_command('test')
