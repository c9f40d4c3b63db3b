"""What all backbones share: stages of falling resolution, their outputs, freezing and loading."""

import itertools
import math
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from logging import FileHandler
from typing import Any, ClassVar

import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, PretrainedInit, update_init_info
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdat.checkpoints.layout import OUTPUT_NORMS, PublishedLayout, rename_parameters
from mmdat.checkpoints.matching import load_pretrained
from mmdat.errors import UserError, suggest
from mmdat.models.arch import fits, stage_settings
from mmdat.models.initialization import init_projections
from mmdat.models.layers import LayerNorm2d
from mmdat.ops.autograd import is_transformed
from mmdat.ops.cpu import channels_last
from mmdat.ops.reference import is_autocast_enabled
from mmdat.ops.tracing import fresh_sizes, is_exporting

PRETRAINED_KEYS = ('type', 'checkpoint', 'prefix', 'map_location')


class Stage(nn.Module):
    """Blocks that follow each other on maps of one resolution.

    Args:
        blocks: Modules on maps, of which each keeps the shape.
        with_cp: Recompute the activations of each block in the backward pass to save memory.
    """

    def __init__(self, blocks: Sequence[nn.Module], with_cp: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        if is_autocast_enabled(x):
            # Blocks add to the map in the precision of their weights, also where autocast lowered
            # it, since their roundings would add up.
            x = x.to(torch.promote_types(x.dtype, next(self.parameters(), x).dtype))
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class HierarchicalBackbone(BaseModule):
    """Stages of blocks on maps of falling resolution, each behind an embedding that halves it.

    A family says what its stages are built from (``SETTINGS``), its named architectures and the
    fields that they share, builds the embeddings and blocks, and says how the authors' checkpoints
    name them. The arguments are explained where a family is defined.
    """

    ARCHITECTURES: ClassVar[Mapping[str, Mapping[str, Any]]]
    DEFAULTS: ClassVar[Mapping[str, Any]]
    SETTINGS: ClassVar[type[Any]]
    # The authors' names of the modules of a classifier's head, by mmpretrain's, and of its norm.
    PUBLISHED_HEAD: ClassVar[Mapping[str, str]]
    PUBLISHED_NORM: ClassVar[str]
    # How the names of published checkpoints begin; None where no weights are known.
    PUBLISHED_PREFIX: ClassVar[str | None] = None
    NORM_EPS: ClassVar[float] = 1e-5
    init_cfg: Any

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        out_indices: Sequence[int] | None,
        drop_path_rate: float,
        frozen_stages: int,
        with_cp: bool,
        pretrain_img_size: int,
        in_channels: int,
        init_cfg: dict | list[dict] | None,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = arch
        self.settings = stage_settings(self.SETTINGS, self._fields(arch), self.DEFAULTS)
        if out_indices is None:
            out_indices = range(len(self.settings))
        self._check_arguments(
            out_indices, drop_path_rate, frozen_stages, with_cp, pretrain_img_size, in_channels
        )
        self.out_indices = tuple(sorted({*out_indices}))
        self.frozen_stages = frozen_stages
        self.pretrain_img_size = pretrain_img_size
        self.in_channels = in_channels

        built = self.settings[: self.out_indices[-1] + 1]
        self.embeddings = nn.ModuleList()
        for stage, settings in enumerate(built):
            previous_dims = built[stage - 1].embed_dims if stage else in_channels
            self.embeddings.append(self._build_embedding(stage, previous_dims, settings))
        # Over all stages, so that a block's rate does not depend on which outputs are wanted.
        depth = sum(settings.depth for settings in self.settings)
        rates = (drop_path_rate * index / max(1, depth - 1) for index in range(depth))
        self.stages = nn.ModuleList()
        self.smallest_image = _smallest_input(self.embeddings)  # side in pixels
        if pretrain_img_size < self.smallest_image:
            raise UserError(
                f'pretrain_img_size must be at least {self.smallest_image}, got {pretrain_img_size}'
            )
        side = pretrain_img_size
        for embedding, settings in zip(self.embeddings, built, strict=True):
            side = _output_side(embedding, side)
            self.stages.append(Stage(list(self._build_blocks(settings, side, rates)), with_cp))
        self.norms = nn.ModuleDict(
            {
                str(stage): LayerNorm2d(self.settings[stage].embed_dims, eps=self.NORM_EPS)
                for stage in self.out_indices
            }
        )
        init_projections(self)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Tensor[batch, in_channels, height, width] -> a map for each of ``out_indices``."""
        if not isinstance(x, Tensor) or x.ndim != 4:
            is_tensor = isinstance(x, Tensor)
            given = f'tensor of shape {tuple(x.shape)}' if is_tensor else type(x).__name__
            raise UserError(
                f'{type(self).__name__} takes images in a batch, (batch, channels, height, width), '
                f'got a {given}'
            )
        if x.shape[1] != self.in_channels:
            raise UserError(
                f'images of {x.shape[1]} channels came to a {type(self).__name__} of in_channels '
                f'{self.in_channels}: make them agree'
            )
        smallest = self.smallest_image
        if x.shape[2] < smallest or x.shape[3] < smallest:
            raise UserError(
                f'an image of {x.shape[2]} x {x.shape[3]} pixels leaves a stage of '
                f'{type(self).__name__} empty: give at least {smallest} x {smallest}'
            )
        x = fresh_sizes(fresh_sizes(x, 0), 2, 3, least=smallest)
        if x.device.type == 'cpu' and not (is_exporting() or is_transformed()):
            # PyTorch's convolution returns its input's order, in which all else is slow.
            x = channels_last(x)
        outputs = []
        for index, (embedding, stage) in enumerate(zip(self.embeddings, self.stages, strict=True)):
            x = fresh_sizes(embedding(x), 2, 3)  # the map before is not held longer
            x = stage(x)
            if index in self.out_indices:
                # mmcv's RoIAlign takes its input for contiguous, whatever its strides, and so reads
                # garbage from the channels-last maps that the norm returns.
                outputs.append(self.norms[str(index)](x).contiguous())
        return tuple(outputs)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each map that is returned."""
        return tuple(self.settings[stage].embed_dims for stage in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Pixels of the image between neighboring positions of each map that is returned."""
        strides = (
            math.prod(conv.stride[0] for conv in _convolutions(embedding))
            for embedding in self.embeddings
        )
        reached = tuple(itertools.accumulate(strides, operator.mul))
        return tuple(reached[stage] for stage in self.out_indices)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """The layer of a parameter, for a learning rate that decays from layer to layer.

        The first embedding is layer 0. Each block is a layer, with the embedding before it if there
        is one. Norms of outputs, and what is not of the backbone, are the last layer.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: What the names of the backbone's parameters begin with there.

        Returns:
            The layer, and the number of layers.

        Example:
            >>> from mmdat.models import DATPlusPlus
            >>> backbone = DATPlusPlus('nano')  # of 2 blocks in each of 4 stages
            >>> backbone.get_layer_depth('backbone.stages.1.blocks.0.norm1.weight', 'backbone.')
            (3, 10)
        """
        depths = [settings.depth for settings in self.settings[: len(self.stages)]]
        num_layers = sum(depths) + 2
        part, *rest = param_name.removeprefix(prefix).split('.')
        if not param_name.startswith(prefix) or part not in ('embeddings', 'stages'):
            return num_layers - 1, num_layers
        stage = rest[0]
        if (part, stage) == ('embeddings', '0'):
            return 0, num_layers
        block = int(rest[2]) if part == 'stages' else 0
        return 1 + sum(depths[: int(stage)]) + block, num_layers

    @property
    def unbuilt(self) -> tuple[str, ...]:
        """What names of stages that are not built begin with, ours and the authors', and norms."""
        stages = (
            f'{name}.'
            for stage in range(len(self.stages), len(self.settings))
            for name in (
                f'embeddings.{stage}',
                f'stages.{stage}',
                f'{OUTPUT_NORMS}{stage}',
                *self._published_parts(stage),
            )
        )
        norms = (
            f'{OUTPUT_NORMS}{stage}.{leaf}'
            for stage in range(len(self.stages))
            if stage not in self.out_indices
            for leaf in ('weight', 'bias')
        )
        return (*stages, *norms)

    def published_layout(self) -> PublishedLayout:
        """Where the tensors of the authors' checkpoints belong in a model on this backbone."""
        norms = {
            f'{OUTPUT_NORMS}{stage}': f'{OUTPUT_NORMS}{stage}.norm'
            for stage in range(len(self.settings))
        }
        modules = {**norms, **dict(self._published_modules())}
        parameters = [name for name, _ in self.named_parameters()]
        absent = [theirs for ours, theirs in norms.items() if f'{ours}.weight' not in parameters]
        classifier = {
            f'backbone.{OUTPUT_NORMS}{len(self.settings) - 1}': self.PUBLISHED_NORM,
            **{f'head.{ours}': theirs for ours, theirs in self.PUBLISHED_HEAD.items()},
        }
        leaves = ('weight', 'bias')
        return PublishedLayout(
            parameters=rename_parameters(parameters, modules),
            classifier={
                f'{ours}.{leaf}': f'{theirs}.{leaf}'
                for ours, theirs in classifier.items()
                for leaf in leaves
            },
            unused=frozenset(self._published_unused()),
            absent_norms=frozenset(f'{norm}.{leaf}' for norm in absent for leaf in leaves),
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Weights of what is not built are not surplus, even where loading is strict.
        unbuilt = tuple(prefix + name for name in self.unbuilt)
        for name in [name for name in state_dict if name.startswith(unbuilt)]:
            del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def train(self, mode: bool = True) -> 'HierarchicalBackbone':
        """Set the training mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def init_weights(self) -> None:
        """Run ``init_cfg``; its ``Pretrained`` takes the authors' files and ordinary ones."""
        if self.is_init:
            super().init_weights()  # which says so
            return
        init_cfg = self.init_cfg
        configs = [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg or []
        for config in configs:
            if (
                not isinstance(config, Mapping)
                or 'type' not in config
                or (_is_pretrained(config) and 'checkpoint' not in config)
            ):
                raise UserError(
                    "init_cfg must have a type, and a checkpoint for 'Pretrained', as "
                    f"in dict(type='Pretrained', checkpoint='x.pth'), got {init_cfg!r}"
                )
        ordered = sorted(configs, key=_is_pretrained)  # checkpoints last, as in mmengine
        self.init_cfg = [_loading(item) if _is_pretrained(item) else item for item in ordered]
        super().init_weights()
        self.init_cfg = init_cfg

    def _dump_init_info(self) -> None:
        # Two lines for each parameter, of which mmengine fills a terminal where no log has a file.
        if any(isinstance(x, FileHandler) for x in MMLogger.get_current_instance().handlers):
            super()._dump_init_info()

    def _build_embedding(self, stage: int, previous_dims: int, settings: Any) -> nn.Module:
        """Build the module between the image or the previous stage's map and this stage's."""
        raise NotImplementedError

    def _build_blocks(
        self, settings: Any, map_side: int, drop_path_rates: Iterator[float]
    ) -> Iterator[nn.Module]:
        """Build the blocks of a stage whose map has this side at the pretraining image size."""
        raise NotImplementedError

    def _published_modules(self) -> Iterator[tuple[str, str]]:
        """Our name and the authors' for each module or single parameter, but the output norms."""
        raise NotImplementedError

    def _published_parts(self, stage: int) -> tuple[str, ...]:
        """The authors' names of the parts of a stage, but for ``stages.<stage>`` and its norm."""
        raise NotImplementedError

    def _published_unused(self) -> Iterator[str]:
        """The authors' names of parameters that no computation of the backbone uses."""
        return iter(())

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        norms = [norm for stage, norm in self.norms.items() if int(stage) < self.frozen_stages]
        for module in (
            *self.embeddings[: max(1, self.frozen_stages)],
            *self.stages[: self.frozen_stages],
            *norms,
        ):
            module.eval().requires_grad_(False)

    def _fields(self, arch: str | Mapping[str, Any]) -> Mapping[str, Any]:
        if isinstance(arch, Mapping):
            return arch
        if not isinstance(arch, str) or arch not in self.ARCHITECTURES:
            raise UserError(
                f"{type(self).__name__} has no arch '{arch}': "
                f'{suggest(str(arch), self.ARCHITECTURES)}'
            )
        return self.ARCHITECTURES[arch]

    def _check_arguments(
        self,
        out_indices: Any,
        drop_path_rate: Any,
        frozen_stages: Any,
        with_cp: Any,
        pretrain_img_size: Any,
        in_channels: Any,
    ) -> None:
        stages = len(self.settings)
        if (
            not isinstance(out_indices, Sequence)
            or not out_indices
            or not all(fits(index, int) and index in range(stages) for index in out_indices)
        ):
            raise UserError(
                f'out_indices must be a list of stages from 0 to {stages - 1}, got {out_indices!r}'
            )
        built = max(out_indices) + 1
        if not fits(frozen_stages, int) or not -1 <= frozen_stages <= built:
            raise UserError(f'frozen_stages must be from -1 to {built}, got {frozen_stages!r}')
        if not fits(with_cp, bool):
            raise UserError(f'with_cp must be True or False, got {with_cp!r}')
        if not fits(pretrain_img_size, int) or pretrain_img_size < 1:
            raise UserError(
                'pretrain_img_size must be the side of the images in pixels, got '
                f'{pretrain_img_size!r}'
            )
        if not fits(in_channels, int) or in_channels < 1:
            raise UserError(
                f"in_channels must be the number of the images' channels, got {in_channels!r}"
            )
        if not fits(drop_path_rate, float) or not 0 <= drop_path_rate < 1:
            raise UserError(
                f'drop_path_rate must be at least 0 and below 1, got {drop_path_rate!r}'
            )


class LoadWeights:
    """An initializer as mmengine's ``PretrainedInit``, that takes the authors' files too."""

    def __init__(self, checkpoint: str | os.PathLike, prefix: str | None) -> None:
        self.checkpoint = os.fspath(checkpoint)
        self.prefix = prefix

    def __call__(self, backbone: Any) -> None:
        load_pretrained(backbone, self.checkpoint, self.prefix)
        update_init_info(backbone, init_info=f'load from {self.checkpoint}')


def _is_pretrained(config: Mapping[str, Any]) -> bool:
    """Whether an ``init_cfg`` asks for a checkpoint, also as ``'mmengine.Pretrained'``."""
    kind = config['type']
    name = kind.rpartition('.')[2] if isinstance(kind, str) else ''
    return kind is PretrainedInit or name in ('Pretrained', 'PretrainedInit')


def _loading(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check an ``init_cfg`` of type ``Pretrained``, and name our initializer in it."""
    checkpoint, prefix = config['checkpoint'], config.get('prefix')
    if not isinstance(checkpoint, (str, os.PathLike)):
        raise UserError(
            f'init_cfg.checkpoint must be the path of a file or an address, got {checkpoint!r}'
        )
    if not isinstance(prefix, str | None):
        raise UserError(
            f'init_cfg.prefix must be what names in the file begin with, got {prefix!r}'
        )
    # Others may have been left by an initializer whose type --cfg-options replaced.
    for key in config.keys() - {*PRETRAINED_KEYS}:
        if get_close_matches(key, PRETRAINED_KEYS, n=1):
            raise UserError(f"unknown key 'init_cfg.{key}': {suggest(key, PRETRAINED_KEYS)}")
    return dict(type=LoadWeights, checkpoint=checkpoint, prefix=prefix)


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def _output_side(embedding: nn.Module, side: int) -> int:
    """Side of the map that an embedding makes of a square one."""
    for conv in _convolutions(embedding):
        stride, kernel_size, padding = _geometry(conv)
        side = (side + 2 * padding - kernel_size) // stride + 1
    return side


def _smallest_input(embeddings: nn.Module) -> int:
    """Side of the smallest square image that leaves each embedding a position."""
    side = 1
    for conv in reversed(_convolutions(embeddings)):
        stride, kernel_size, padding = _geometry(conv)
        side = max(1, (side - 1) * stride + kernel_size - 2 * padding)
    return side


def _geometry(conv: nn.Conv2d) -> tuple[int, int, int]:
    """Stride, kernel size and padding of a convolution that is the same along both axes."""
    assert not isinstance(conv.padding, str)
    return conv.stride[0], conv.kernel_size[0], conv.padding[0]
