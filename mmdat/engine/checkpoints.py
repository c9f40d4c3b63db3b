"""Saving of checkpoints such that one that is whole is always there, also when asked to stop."""

import os
import signal
from collections import deque
from pathlib import Path
from typing import Any

import mmengine.hooks
import torch
from mmengine.dist import all_reduce, barrier, get_world_size, is_main_process
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from mmdat.checks.mmengine_private import built_loops, is_resuming
from mmdat.checks.monitors import SAVE_BEST, check_given
from mmdat.errors import UserError
from mmdat.files import partial_path, write_whole
from mmdat.registry import HOOKS

from . import stopping
from .finite import IN_A_ROW, all_finite

# Entry of the message hub: the iteration whose validation is in the checkpoint.
VALIDATED = 'mmdat_validated_at_iter'
# The checkpoint of a training that is asked to stop; the next regular one takes its place.
STOPPED = 'stopped.pth'
# Entry of a checkpoint: gradients of a step whose batches were not all done.
GRADIENTS = 'gradients'


@HOOKS.register_module()
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """mmengine's ``CheckpointHook`` that removes old checkpoints when the new one is written.

    A training that is resumed in a folder that was moved or copied touches no file of another. A
    training that is asked to stop by a signal writes ``stopped.pth`` at the end of the step, and
    ends with the status that shells give to that signal.

    Raises:
        UserError: If a checkpoint cannot be written, or a validation does not give ``save_best``.
        SystemExit: If the training was asked to stop.
    """

    keep_ckpt_ids: deque[int]
    _saved: tuple[int, dict[str, Any]] | None = None
    _meta: dict[str, Any] | None = None
    _gradients: dict[str, torch.Tensor] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if is_resuming(runner):
            self._gradients = checkpoint.get(GRADIENTS)

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        try:
            self.filename_tmpl.format(0)
        except (LookupError, ValueError) as error:
            raise UserError(
                f'filename_tmpl {self.filename_tmpl!r} of the checkpoint hook takes no number: '
                "write it as in 'epoch_{}.pth'"
            ) from error
        if '/' in self.filename_tmpl:
            raise UserError(
                f'filename_tmpl {self.filename_tmpl!r} of the checkpoint hook has a folder, where '
                '--resume finds nothing: set out_dir'
            )
        if is_main_process() and '://' not in self.out_dir:
            os.makedirs(self.out_dir, exist_ok=True)  # one below the config's out_dir may be new
            for path in Path(self.out_dir).glob(partial_path(Path('*.pth')).name):
                path.unlink()  # a run was killed as it wrote this
        for name, parameter in runner.model.named_parameters():
            if self._gradients and name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter.device)
        self._gradients = None
        if (loop := built_loops(runner).get('val')) is not None:
            stopping.shield_workers(loop.dataloader)
        hub = runner.message_hub
        if (last := hub.get_info('last_ckpt')) is not None:
            self.last_ckpt = self._path(os.path.basename(last))
            step = runner.epoch if self.by_epoch else runner.iter
            if self.last_ckpt == self._path(self.filename_tmpl.format(step)):
                self._saved = step, dict(epoch=runner.epoch, iter=runner.iter)
        for key in [key for key in hub.runtime_info if key.startswith('best_ckpt')]:
            own = self._path(os.path.basename(hub.get_info(key)))
            hub.update_info(key, own)
            if key == 'best_ckpt':
                self.best_ckpt_path = own
            elif key[len('best_ckpt_') :] in getattr(self, 'best_ckpt_path_dict', {}):
                self.best_ckpt_path_dict[key[len('best_ckpt_') :]] = own

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if _is_step_done(runner) and (request := _request_to_any()):
            self.stop(runner, runner.iter + 1, request)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        # Processes may validate unequal numbers of batches: together they stop after it.
        if stopping.requested() and get_world_size() == 1:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)  # puts the weights that are trained back
            runner.message_hub.update_info(VALIDATED, None)
            self.stop(runner, runner.iter, stopping.requested())

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        saved = self._saved
        self._meta = dict(epoch=runner.epoch, iter=runner.iter)
        super().after_val_epoch(runner, metrics)
        # With the metrics in the checkpoint a resumed training need not validate again.
        if saved is not None and saved is self._saved and saved[1]['iter'] == runner.iter:
            self._save_checkpoint_with_step(runner, *saved)
        self._meta = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if self._meta is not None:  # FlexibleRunner counts on after a validation
            checkpoint['meta'].update(self._meta)
        # Gradients of several processes differ here, and a checkpoint has those of one.
        if get_world_size() == 1 and not _is_step_done(runner):
            checkpoint[GRADIENTS] = {
                name: parameter.grad.cpu()
                for name, parameter in runner.model.named_parameters()
                if parameter.grad is not None
            }

    def stop(self, runner: Runner, iteration: int, request: int) -> None:
        """Write a checkpoint of so many iterations, and end.

        Raises:
            SystemExit: With 128 and the number of the signal that asked for it.
        """
        has_all = self._saved is not None and self._saved[1]['iter'] == iteration
        if not has_all and not (problem := _why_not_saved(runner)):
            self._write(runner, STOPPED, dict(epoch=runner.epoch, iter=iteration), by_epoch=False)
            has_all = True
        barrier()  # else a launcher ends this process when another has ended
        runner.logger.info(
            f'Stopped by {signal.Signals(request).name} after iteration {iteration}: '
            + (
                f'{self.last_ckpt} has all of it, and --resume goes on from there'
                if has_all
                else f'there is no checkpoint of it, since {problem}'
            )
        )
        raise SystemExit(128 + request)

    def _path(self, name: str) -> str:
        return self.file_backend.join_path(self.out_dir, name)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        if problem := _why_not_saved(runner):
            runner.logger.warning(f'There is no checkpoint of this step, since {problem}')
            return
        steps = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        if self.max_keep_ckpts > 0:
            if step not in steps[-1:]:
                steps.append(step)
            # This names the step that is removed below: a run that is cut off here can still do it.
            runner.message_hub.update_info('keep_ckpt_ids', steps)
            self.keep_ckpt_ids = deque(steps, self.max_keep_ckpts)
        meta = dict(self._meta or meta)
        self._saved = step, meta
        self._write(runner, self.filename_tmpl.format(step), meta, self.by_epoch)
        # Where the last step was skipped, no older checkpoint is removed.
        if is_main_process() and not runner.message_hub.get_info(IN_A_ROW, 0):
            outdated = steps[: -self.max_keep_ckpts] if self.max_keep_ckpts > 0 else []
            # Without a {} in filename_tmpl all have the name of the one just written.
            names = {*map(self.filename_tmpl.format, outdated), STOPPED}
            for name in names - {self.filename_tmpl.format(step)}:
                if self.file_backend.isfile(self._path(name)):
                    self.file_backend.remove(self._path(name))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        if not self.save_best or _why_not_saved(runner):
            return
        for metric in self.save_best:
            if metric != 'auto':
                check_given(SAVE_BEST, metric, metrics)
        outdated: list[str] = []
        # mmengine removes the best one before it writes the new one.
        self.file_backend.remove = outdated.append
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            del self.file_backend.remove
        best = getattr(self, 'best_ckpt_path_dict', None) or dict(_=self.best_ckpt_path)
        for path in set(outdated) - set(best.values()):
            self.file_backend.remove(path)

    def _write(self, runner: Runner, name: str, meta: dict[str, Any], by_epoch: bool) -> None:
        """Write a checkpoint, and then the file that names the last one."""
        is_local = '://' not in self.out_dir
        if is_local and not Path(self.out_dir).is_dir():
            raise UserError(f'{self._path(name)} cannot be written: its folder is gone')
        self.last_ckpt = self._path(name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        of_validation, self._meta = self._meta, meta
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=dict(meta),
            by_epoch=by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self._meta = of_validation
        if is_main_process():
            write_whole(Path(runner.work_dir, 'last_checkpoint'), self.last_ckpt)


def _why_not_saved(runner: Runner) -> str | None:
    """Say why a checkpoint of this step would be of no use; None if it is."""
    # At the end of training no other checkpoint would come.
    if runner.message_hub.get_info(IN_A_ROW, 0) and runner.iter + 1 < runner.max_iters:
        return 'its loss or gradient is not finite'
    (is_finite,) = all_finite(runner.model.parameters())
    if not is_finite:
        return 'the weights are not finite any more'
    return None


def _request_to_any() -> int:
    """Number of the signal that asked any of the processes to stop; all of them must call it."""
    request = torch.tensor(stopping.requested())
    if get_world_size() > 1:
        all_reduce(request, 'max')
    return int(request)


def _is_step_done(runner: Runner) -> bool:
    """Whether the last batch was the last of a step, of which gradients of several are added."""
    wrapper = getattr(runner, 'optim_wrapper', None)
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return all(not isinstance(one, OptimWrapper) or one.should_update() for one in wrappers)
