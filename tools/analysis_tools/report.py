#!/usr/bin/env python
"""Draw predictions beside the truth and tabulate how good they are, from tools/test.py --out."""

import sys

try:
    from mmdat.commands import run_command
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')

if __name__ == '__main__':
    run_command('report')
