#!/usr/bin/env python
"""Look for what is wrong with the data of a config before it is trained; status 1 if there is."""

import sys

try:
    from mmdat.commands import run_command
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')

if __name__ == '__main__':
    run_command('check-data')
