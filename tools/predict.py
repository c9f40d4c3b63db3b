#!/usr/bin/env python
"""Predict images, folders, videos: ``tools/predict.py CONFIG CHECKPOINT INPUT [INPUT ...]``."""

import sys

try:
    from mmdat.commands import run_command
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')

if __name__ == '__main__':
    run_command('predict')
