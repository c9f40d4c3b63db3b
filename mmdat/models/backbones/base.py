"""What all backbones share: stages of falling resolution, their outputs, freezing and loading."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdat.checkpoints.layout import OUTPUT_NORMS, PublishedLayout, rename_parameters
from mmdat.checkpoints.matching import load_pretrained
from mmdat.errors import UserError, suggest
from mmdat.models.arch import fits, stage_settings
from mmdat.models.initialization import init_projections
from mmdat.models.layers import LayerNorm2d
from mmdat.ops.tracing import fresh_sizes

# The types by which an init_cfg of mmengine asks for a checkpoint.
PRETRAINED = ('Pretrained', 'PretrainedInit', PretrainedInit)


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
        init_cfg: dict | list[dict] | None,
    ) -> None:
        super().__init__(init_cfg)
        self.settings = stage_settings(self.SETTINGS, self._fields(arch), self.DEFAULTS)
        if out_indices is None:
            out_indices = range(len(self.settings))
        self._check_arguments(
            out_indices, drop_path_rate, frozen_stages, with_cp, pretrain_img_size
        )
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.pretrain_img_size = pretrain_img_size

        self.embeddings = nn.ModuleList()
        for stage, settings in enumerate(self.settings):
            previous_dims = self.settings[stage - 1].embed_dims if stage else 3
            self.embeddings.append(self._build_embedding(stage, previous_dims, settings))
        depth = sum(settings.depth for settings in self.settings)
        rates = (drop_path_rate * index / max(1, depth - 1) for index in range(depth))
        self.stages = nn.ModuleList()
        self.smallest_image = _smallest_input(self.embeddings)  # side in pixels
        if pretrain_img_size < self.smallest_image:
            raise UserError(
                f'pretrain_img_size must be at least {self.smallest_image}, got {pretrain_img_size}'
            )
        side = pretrain_img_size
        for embedding, settings in zip(self.embeddings, self.settings, strict=True):
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
        """Tensor[batch, 3, height, width] -> a Tensor[batch, embed_dims, ...] for each output."""
        smallest = self.smallest_image
        if x.shape[2] < smallest or x.shape[3] < smallest:
            raise UserError(
                f'an image of {x.shape[2]} x {x.shape[3]} pixels leaves a stage of '
                f'{type(self).__name__} empty: give at least {smallest} x {smallest}'
            )
        x = fresh_sizes(fresh_sizes(x, 0), 2, 3, least=smallest)
        outputs = []
        for index, (embedding, stage) in enumerate(zip(self.embeddings, self.stages, strict=True)):
            x = stage(fresh_sizes(embedding(x), 2, 3))
            if index in self.out_indices:
                # mmcv's RoIAlign on CPU takes its input for contiguous, whatever its strides, and
                # so reads garbage from the channels-last maps that the norm returns.
                outputs.append(self.norms[str(index)](x).contiguous())
        return tuple(outputs)

    def published_layout(self) -> PublishedLayout:
        """Where the tensors of the authors' checkpoints belong in a model on this backbone."""
        norms = {
            f'{OUTPUT_NORMS}{stage}': f'{OUTPUT_NORMS}{stage}.norm'
            for stage in range(len(self.stages))
        }
        modules = {**norms, **dict(self._published_modules())}
        parameters = [name for name, _ in self.named_parameters()]
        absent = [theirs for ours, theirs in norms.items() if f'{ours}.weight' not in parameters]
        classifier = {
            f'backbone.{OUTPUT_NORMS}{len(self.stages) - 1}': self.PUBLISHED_NORM,
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
                or (config['type'] in PRETRAINED and 'checkpoint' not in config)
            ):
                raise UserError(
                    "init_cfg must have a type, and a checkpoint for 'Pretrained', as "
                    f"in dict(type='Pretrained', checkpoint='x.pth'), got {init_cfg!r}"
                )
        pretrained = [config for config in configs if config['type'] in PRETRAINED]
        self.init_cfg = [config for config in configs if config not in pretrained]
        super().init_weights()
        self.init_cfg = init_cfg
        for config in pretrained:
            load_pretrained(self, config['checkpoint'], config.get('prefix'))

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
    ) -> None:
        stages = len(self.settings)
        if (
            not isinstance(out_indices, Sequence)
            or not out_indices
            or not all(fits(index, int) and index in range(stages) for index in out_indices)
        ):
            raise UserError(
                f'out_indices must be stages from 0 to {stages - 1}, got {out_indices!r}'
            )
        if not fits(frozen_stages, int) or not -1 <= frozen_stages <= stages:
            raise UserError(f'frozen_stages must be from -1 to {stages}, got {frozen_stages!r}')
        if not fits(with_cp, bool):
            raise UserError(f'with_cp must be True or False, got {with_cp!r}')
        if not fits(pretrain_img_size, int) or pretrain_img_size < 1:
            raise UserError(
                'pretrain_img_size must be the side of the images in pixels, got '
                f'{pretrain_img_size!r}'
            )
        if not fits(drop_path_rate, float) or not 0 <= drop_path_rate < 1:
            raise UserError(
                f'drop_path_rate must be at least 0 and below 1, got {drop_path_rate!r}'
            )


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
