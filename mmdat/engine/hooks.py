"""Hooks that check a run's parts and report skipped images."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.hooks import RemovableHandle

from mmdat import checks
from mmdat.checkpoints.layout import STEM
from mmdat.checkpoints.matching import adapt_stem
from mmdat.checks import config_tree, mmengine_private
from mmdat.registry import HOOKS

from .sharding import whole_weights


@HOOKS.register_module()
class CheckFitHook(Hook):
    """Refuse a neck, heads or a checkpoint that do not fit the backbone, the data or the model.

    A checkpoint that is tested or resumed must fill the model exactly; one that training starts
    from must fill the backbone, since heads may be for other classes. Its first convolution for RGB
    is changed to one for the backbone's ``in_channels``.

    Raises:
        UserError: Before the first iteration; names what does not fit.
    """

    _first_step_hooks: list[RemovableHandle]

    def before_run(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        loops = mmengine_private.built_loops(runner)
        checks.check_schedule(runner)
        checks.check_monitors(runner, model)
        checks.before_first_step(
            model,
            {split: loop.dataloader.dataset for split, loop in loops.items()},
            {split: loop.evaluator for split, loop in loops.items() if split != 'train'},
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        model = unwrap(runner.model)
        source = mmengine_private.source_of_weights(runner)
        is_fine_tuning = mmengine_private.is_fine_tuning(runner)
        is_resuming = mmengine_private.is_resuming(runner)
        if is_fine_tuning:
            _adapt_stem(model, checkpoint, source)
        checks.model_fit.check_weights_fit(
            checkpoint,
            _weights(runner.model),
            source,
            backbone_only=is_fine_tuning,
            # An optimizer's state that was saved with more stages does not fit.
            unneeded=() if is_resuming else checks.model_fit.unbuilt(model),
        )
        if is_resuming:
            checks.checkpoint.check_precision(runner, checkpoint, source)
            checks.checkpoint.check_optimizer(runner, checkpoint, source)
            checks.checkpoint.check_averages(runner, checkpoint, source)
        if not is_fine_tuning:
            for loop in mmengine_private.built_loops(runner).values():
                dataset = loop.dataloader.dataset
                metainfo = config_tree.first_metainfo(getattr(dataset, 'metainfo', None))
                checks.checkpoint.check_class_order(
                    checkpoint, source, metainfo.get('classes') or (), runner.logger.warning
                )

    def before_train(self, runner: Runner) -> None:
        checks.checkpoint.warn_if_finished(runner, mmengine_private.source_of_weights(runner))
        if not mmengine_private.loads_weights(runner):
            checks.checkpoint.warn_if_random(unwrap(runner.model), runner.logger.warning)
        self._first_step_hooks = checks.schedule.watch_batch_norm(
            unwrap(runner.model), runner.train_dataloader
        )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        checks.masks.check_mask_classes(unwrap(runner.model), data_batch)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        while self._first_step_hooks:
            self._first_step_hooks.pop().remove()


@HOOKS.register_module()
class CountBrokenImagesHook(Hook):
    """Tell how many images are skipped because they cannot be read, when there are more."""

    def __init__(self) -> None:
        self._told = 0

    def after_train_epoch(self, runner: Runner) -> None:
        self._tell(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        # A training that counts iterations is one epoch, which ends with it.
        if isinstance(runner.train_loop, IterBasedTrainLoop) and self.every_n_train_iters(
            runner, len(runner.train_dataloader)
        ):
            self._tell(runner)

    def _tell(self, runner: Runner) -> None:
        skipped = sum(
            getattr(transform, 'num_broken', 0)
            for _, dataset in config_tree.unwrap(runner.train_dataloader.dataset)
            for transform in config_tree.transforms(getattr(dataset, 'pipeline', ()))
        )
        if skipped > self._told:
            self._told = skipped
            runner.logger.warning(
                f'{skipped} images cannot be read and are skipped, each time that they would be '
                'trained on; their paths are in the warnings above'
            )


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers for several processes and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.get_submodule('module')
    return model


def _adapt_stem(model: nn.Module, checkpoint: dict[str, Any], source: str) -> None:
    """Make the first convolution in a checkpoint fit the channels that the backbone reads."""
    if (backbone := checks.model_fit.own_backbone(model)) is None:
        return
    weights = checkpoint.get('state_dict', checkpoint)
    for name in weights:
        if name.removeprefix('module.') == f'backbone.{STEM}':
            weights[name] = adapt_stem(weights[name], backbone.in_channels, source)


def _weights(model: nn.Module) -> dict[str, Any]:
    """The weights of a model by name, gathered if it is sharded."""
    if isinstance(model, FullyShardedDataParallel):
        return whole_weights(model)
    return unwrap(model).state_dict()
