"""What the command-line tools share: the flags of a run, and how a tool ends."""

import argparse
import gc
import io
import locale
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from mmengine.config import DictAction
from torch import distributed

from mmdat.checks.run import check_cfg_option
from mmdat.errors import UserError, is_out_of_memory, reason
from mmdat.files import file_fault


class ConfigOptions(DictAction):
    """Parse ``KEY=VALUE`` arguments as mmengine does, but refuse others in a sentence."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for value in values:
            check_cfg_option(value)
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:  # brackets that do not match
            raise UserError(f'--cfg-options: {reason(error)}') from error
        except RecursionError as error:
            raise UserError(
                f'--cfg-options takes no dict(...), as in {" ".join(values)}: give its values by '
                'dotted keys, such as param_scheduler.0.begin=1, or write a config'
            ) from error


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add the flag ``--cfg-options``, which changes values of the config."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='values to put into the config, such as train_cfg.max_epochs=1',
    )


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add the flag ``--shape``, the size of images."""
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help='height and width, or one number for both (800 1280 for detection, '
        "512 512 for segmentation, the config's for classification)",
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all tools that run a config with a launcher."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch'
    )


def command_line(main: Callable[[], None]) -> None:
    """Run a tool: a mistake of the user ends in one sentence and status 1, without a traceback."""
    _use_utf8()
    threading.excepthook = _tell_of_thread
    try:
        main()
        _leave_processes()
    except SystemExit:  # a training that was asked to stop
        _leave_processes()
        raise
    except UserError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if fault := file_fault(error):
            sys.exit(f'error: {fault}')
        if is_out_of_memory(error):
            sys.exit(
                f'error: there is too little memory ({reason(error)}): give smaller batches or '
                'images, or a smaller model'
            )
        raise


def _tell_of_thread(args: threading.ExceptHookArgs) -> None:
    """Print what ends a thread, unless it cannot write: TensorBoard's next call tells of that."""
    if args.exc_value is None or not file_fault(args.exc_value):
        threading.__excepthook__(args)


def _leave_processes() -> None:
    """Leave the processes of a distributed run.

    At exit, threads of a process group that is still there abort the process now and then; a model
    in a cycle of references would keep it.
    """
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()


def _use_utf8() -> None:
    """Read and write UTF-8 whatever the locale, as configs and data of any language need.

    mmengine, pycocotools and the file system's names follow the mode that Python starts in.
    """
    if not sys.flags.utf8_mode and locale.getpreferredencoding(False).lower() not in (
        'utf-8',
        'utf8',
    ):
        os.execv(sys.executable, [sys.executable, '-X', 'utf8', *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
