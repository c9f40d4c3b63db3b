#!/usr/bin/env python
"""Draw losses, learning rates and metrics of trainings: ``plot.py WORK_DIR [WORK_DIR ...]``."""

import sys

try:
    from mmdat.commands import run_command
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')

if __name__ == '__main__':
    run_command('plot')
