#!/usr/bin/env python
"""Write a config for data of your own: ``tools/new_config.py BASE DATA OUT.py``."""

import sys

try:
    from mmdat.commands import run_command
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')

if __name__ == '__main__':
    run_command('new-config')
