"""A short log on the terminal, in which what matters is seen; the log's file has all."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from mmengine.logging import MMLogger

from mmdat.errors import UserError
from mmdat.files import file_fault

# Beginnings of what mmengine and the toolboxes' constructors of optimizers log: long lists, a line
# for each parameter, and advice that is for their authors.
IN_THE_FILE_ALONE = (
    '\n' + '-' * 60 + '\nSystem environment:',
    'Config:\n',
    'Distributed training is not used, all SyncBatchNorm',
    'Hooks will be executed in the following order',
    'paramwise_options -- ',
    'Build LearningRateDecayOptimizerConstructor',
    'self.paramwise_cfg is ',
    'set param ',
    'Param groups = ',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    'The prefix is not set in metric class',
)


@contextlib.contextmanager
def short_terminal() -> Iterator[None]:
    """Let loggers that mmengine makes meanwhile write to the terminal only what is to be seen.

    Where such a log cannot be written, what is logged raises a UserError. Runners log much before
    they can be reached, and kinds of them build their loggers in ways of their own.
    """
    original = MMLogger.__init__

    def make(logger: MMLogger, *args: Any, **kwargs: Any) -> None:
        original(logger, *args, **kwargs)
        for handler in logger.handlers:
            handler.handleError = partial(_raise_fault, handler)
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_is_to_be_seen)

    MMLogger.__init__ = make
    try:
        yield
    finally:
        MMLogger.__init__ = original


def _is_to_be_seen(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(IN_THE_FILE_ALONE)


def _raise_fault(handler: logging.Handler, record: logging.LogRecord) -> None:
    """Raise what kept a record from being written; without this it is printed, and forgotten."""
    error = sys.exc_info()[1]
    if error is None or not (fault := file_fault(error)):
        logging.Handler.handleError(handler, record)
        return
    handler.setLevel(sys.maxsize)  # what ends the run is told without it
    raise UserError(fault) from error
