#!/usr/bin/env python
"""Export a model to ONNX or torch.export: ``tools/deployment/export.py CONFIG CHECKPOINT OUT``."""

import sys

try:
    from mmdat.commands import run_command
except ImportError as error:  # of a missing or unsupported package
    sys.exit(f'error: {error}')

if __name__ == '__main__':
    run_command('export')
