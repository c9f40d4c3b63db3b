"""Hooks that check a run's parts and report skipped images."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from mmdat import checks
from mmdat.checkpoints.layout import STEM
from mmdat.checkpoints.matching import adapt_stem
from mmdat.checks import config_tree, mmengine_private
from mmdat.models.backbones.base import HierarchicalBackbone
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

    def before_run(self, runner: Runner) -> None:
        datasets = mmengine_private.built_datasets(runner)
        checks.before_first_step(_unwrap(runner.model), datasets)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        model = _unwrap(runner.model)
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
            unneeded=() if is_resuming else checks.model_fit.unbuilt_stages(model),
        )

        if not is_fine_tuning:
            for dataset in mmengine_private.built_datasets(runner).values():
                checks.checkpoint.check_trained_classes(
                    checkpoint,
                    source,
                    getattr(dataset, 'metainfo', {}).get('classes') or (),
                    runner.logger.warning,
                )

    def before_train(self, runner: Runner) -> None:
        checks.checkpoint.warn_if_finished(runner, mmengine_private.source_of_weights(runner))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        checks.masks.check_mask_classes(_unwrap(runner.model), data_batch)


@HOOKS.register_module()
class CountBrokenImagesHook(Hook):
    """Tell after each epoch how many images were skipped because they could not be read."""

    def after_train_epoch(self, runner: Runner) -> None:
        skipped = sum(
            getattr(transform, 'num_broken', 0)
            for _, dataset in config_tree.unwrap(runner.train_dataloader.dataset)
            for transform in config_tree.transforms(getattr(dataset, 'pipeline', ()))
        )
        if skipped:
            runner.logger.warning(
                f'Skipped broken images {skipped} times so far; '
                'their paths are in the warnings above'
            )


def _unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers for several processes and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.get_submodule('module')
    return model


def _adapt_stem(model: nn.Module, checkpoint: dict[str, Any], source: str) -> None:
    """Make the first convolution in a checkpoint fit the channels that the backbone reads."""
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, HierarchicalBackbone):
        return
    weights = checkpoint.get('state_dict', checkpoint)
    for name in weights:
        if name.removeprefix('module.') == f'backbone.{STEM}':
            weights[name] = adapt_stem(weights[name], backbone.in_channels, source)


def _weights(model: nn.Module) -> dict[str, Any]:
    """The weights of a model by name, gathered if it is sharded."""
    if isinstance(model, FullyShardedDataParallel):
        return whole_weights(model)
    return _unwrap(model).state_dict()
