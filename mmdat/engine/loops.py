"""Training loops that go on after an interruption as if there had been none.

The random numbers of each image and of each step come from the run's seed and the number of the
iteration alone. A training that is resumed begins with the batch that was next, loads no earlier
one, and computes what it would have computed, whatever the number of loader workers.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from mmdat.registry import LOOPS

from .checkpoints import VALIDATED
from .stopping import requests_to_stop, shield_workers

# Places of what draws random numbers and is no image of a batch.
STEP, VALIDATION = -1, -2
# Entry of mmengine's message hub, which is in each checkpoint.
POSITION = 'mmdat_position'
# Packages whose samplers give the same order again from a seed and an epoch.
KNOWN_SAMPLERS = ('torch', 'mmengine', 'mmdet', 'mmseg', 'mmpretrain')

Ticket = tuple[int, int, int]


def set_random_numbers(ticket: Ticket, place: int) -> None:
    """Make what Python, NumPy and PyTorch draw next depend on these numbers alone.

    Args:
        ticket: The run's seed, the process's rank and the number of the iteration.
        place: Of the image in its batch, or ``STEP`` or ``VALIDATION``.
    """
    words = np.random.SeedSequence([*ticket, place - VALIDATION]).generate_state(3)
    for seed, word in zip((random.seed, np.random.seed, torch.manual_seed), words, strict=True):
        seed(int(word))  # type: ignore[operator]


class SeededItems:
    """Load the items of a batch, each with random numbers of its own."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, batch: Sequence[Any]) -> list[Any]:
        ticket, *indices = batch
        items = []
        for place, index in enumerate(indices):
            set_random_numbers(ticket, place)
            items.append(self.dataset[index])
        return items


class NumberedBatches:
    """Batches of indices from a given one on, each with the ticket of its iteration before it.

    There are none before :meth:`begin`, so that a loader that is built loads nothing yet.

    Args:
        batches: The batch sampler.
        has_tickets: Whether the data set takes them.
    """

    def __init__(self, batches: Any, has_tickets: bool) -> None:
        self.batches = batches
        self.has_tickets = has_tickets
        self._begun: tuple[int, int, int, bool] | None = None

    def begin(self, seed: int, iteration: int, skip: int, endless: bool) -> None:
        """Say what the next passes yield.

        Args:
            iteration: Number of the iteration that the first batch is for.
            skip: How many batches are left out before it.
            endless: Whether a pass goes on with the sampler's next epoch where one ends.
        """
        self._begun = seed, iteration, skip, endless

    def __iter__(self) -> Iterator[list[Any]]:
        if self._begun is None:
            return
        seed, iteration, skip, endless = self._begun
        batches = islice(self._endless() if endless else self.batches, skip, None)
        for number, batch in enumerate(batches, iteration):
            yield [(seed, get_rank(), number), *batch] if self.has_tickets else batch

    def _endless(self) -> Iterator[Any]:
        set_epoch = getattr(getattr(self.batches, 'sampler', None), 'set_epoch', None)
        for epoch in count():
            if set_epoch is not None:
                set_epoch(epoch)
            yield from self.batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        if name == 'batches':  # not there yet while a copy is made
            raise AttributeError(name)
        return getattr(self.batches, name)


def number_batches(loader: DataLoader, warn: Callable[[str], None]) -> NumberedBatches | None:
    """Let a loader begin at any batch, and load each image with random numbers of its own.

    Args:
        loader: A built loader that is not in use yet.
        warn: Is told of what of a user's own decides how exactly training resumes.

    Returns:
        Its batch sampler from now on; None if it puts no batches together.
    """
    batches: Any = loader.batch_sampler
    dataset: Any = loader.dataset
    own = [
        type(part).__name__
        for part in (batches, getattr(batches, 'sampler', None))
        if part is not None and type(part).__module__.split('.')[0] not in KNOWN_SAMPLERS
    ]
    has_tickets = batches is not None and not hasattr(dataset, '__getitems__')
    if not has_tickets:
        own.append(type(dataset).__name__)
    if own:
        warn(
            f'If this training is resumed, it goes on as exactly as {" and ".join(own)} of '
            'train_dataloader can'
        )
    if batches is None:
        return None
    numbered = NumberedBatches(batches, has_tickets)
    # A loader refuses another batch sampler, since it may be in use.
    loader.__dict__['batch_sampler'] = numbered
    if has_tickets:
        # PyTorch asks a data set that has this for all items of a batch at once.
        dataset.__getitems__ = SeededItems(dataset)
    return numbered


class _ResumableLoop(BaseLoop):
    """What both loops share; a base before mmengine's, which calls the setter of its loader."""

    runner: Runner
    val_begin: int
    val_interval: int
    stop_training: bool
    _iter: int
    _decide_current_val_interval: Callable[[], None]

    @property
    def dataloader(self) -> DataLoader:
        """The data loader that gives batches of training images."""
        return self._dataloader

    @dataloader.setter
    def dataloader(self, loader: DataLoader) -> None:
        self._dataloader = loader
        shield_workers(loader)
        self._numbered = number_batches(loader, self.runner.logger.warning)

    def run(self) -> nn.Module:
        """Train, from where the checkpoint was written, until the end or a request to stop."""
        with requests_to_stop():
            return self._train()

    def _train(self) -> nn.Module:
        raise NotImplementedError

    @property
    def _sampler(self) -> Any:
        return getattr(self._numbered, 'sampler', None)

    def _restore(self) -> int:
        """Take over what a checkpoint of these loops says, and validate if that was due.

        Returns:
            How many batches of the epoch are done.
        """
        position = self.runner.message_hub.get_info(POSITION)
        if position is None:  # a new training, or a checkpoint of mmengine's loops
            return 0
        if position['sampler_seed'] is not None:
            self._sampler.seed = position['sampler_seed']
        done, batches = position['batch'], position['batches']
        now = len(self.dataloader)
        if batches != now and isinstance(self, EpochBasedTrainLoop):
            self.runner.logger.warning(
                f'An epoch had {batches} batches and now has {now}, as with another batch_size, '
                'number of processes or data: schedules that count iterations, also by '
                'convert_to_iter_based, stay those of the old epochs'
                + (f'; this epoch begins anew, though {done} batches were done' if done else '')
            )
            done = 0
        if not done:
            self._validate_if_due()
        return done

    def _prepare_step(self, done: int) -> None:
        """Tell the checkpoints how many batches of the epoch are done after this step, and seed."""
        self._tell_position(done)
        set_random_numbers((self.runner.seed, get_rank(), self._iter), STEP)

    def _tell_position(self, batch: int) -> None:
        """Put how many batches of the epoch are done into the checkpoints that are written next."""
        seed = getattr(self._sampler, 'seed', None)
        position = dict(batch=batch, batches=len(self.dataloader), sampler_seed=seed)
        self.runner.message_hub.update_info(POSITION, position)

    def _validate_if_due(self) -> None:
        """Validate where the interval says so, unless the checkpoint was written after that."""
        self._decide_current_val_interval()
        done, most = self._progress()
        hub = self.runner.message_hub
        if (
            self.runner.val_loop is None
            or done < self.val_begin
            or (done % self.val_interval and done != most)
            or hub.get_info(VALIDATED) == self._iter
        ):
            return
        hub.update_info(VALIDATED, self._iter)
        set_random_numbers((self.runner.seed, get_rank(), self._iter), VALIDATION)
        self.runner.val_loop.run()

    def _progress(self) -> tuple[int, int]:
        """How much is done, and how much there is, in the unit of the validation's interval."""
        raise NotImplementedError


@LOOPS.register_module()
class ResumableEpochLoop(_ResumableLoop, EpochBasedTrainLoop):
    """mmengine's training by epochs, which can go on in the middle of one."""

    def _train(self) -> nn.Module:
        self.runner.call_hook('before_train')
        done = self._restore()
        while self._epoch < self._max_epochs and not self.stop_training:
            self._run_epoch_from(done)
            done = 0
            self._validate_if_due()
        self.runner.call_hook('after_train')
        return self.runner.model

    def _run_epoch_from(self, done: int) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self._tell_position(done)
        if self._numbered is not None:
            self._numbered.begin(self.runner.seed, self._iter, done, endless=False)
        for index, batch in enumerate(self.dataloader, done):
            self._prepare_step(index + 1)
            self.run_iter(index, batch)
        self._tell_position(0)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _progress(self) -> tuple[int, int]:
        return self._epoch, self._max_epochs


@LOOPS.register_module()
class ResumableIterLoop(_ResumableLoop, IterBasedTrainLoop):
    """mmengine's training by iterations, which goes on without loading what it has seen."""

    dataloader_iterator: Any

    def _train(self) -> nn.Module:
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self._restore()
        if self._numbered is not None:
            self._numbered.begin(self.runner.seed, self._iter, skip=self._iter, endless=True)
        del self.dataloader_iterator  # mmengine's, and its workers, which have loaded nothing
        self.dataloader_iterator = iter(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            batch = next(self.dataloader_iterator)
            self._prepare_step(0)
            self.run_iter(batch)
            self._validate_if_due()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _progress(self) -> tuple[int, int]:
        return self._iter, self._max_iters
