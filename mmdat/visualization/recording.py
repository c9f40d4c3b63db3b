"""Recording what the attention of a model's backbone looks at.

All points are (x, y) in pixels of the network's input, counted from its upper left corner: pixel i
of an axis covers [i, i + 1). Position i of a map of stride s covers [i * s, (i + 1) * s), its
middle is (i + 0.5) * s.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmdat.errors import UserError
from mmdat.ops import reference_points

from .attended import SHARING, Pairs, SharedKeys, kind_of, to_positions
from .mapping import UNCHANGED, ImageMapping

STEM_STRIDE = 4  # of the first stage in all these backbones; each next stage halves the map


class Attention(NamedTuple):
    """What chosen queries attend to; float32, on the CPU.

    ``weights[h, i] @ values[h, i]`` is what head h puts out for query i, before the projection and
    before a convolution that the module adds (LIM of IWSA, ``position_bias='depthwise'`` of D).

    Attributes:
        weights: Tensor[heads, n, keys]. They sum up to 1 over the keys. A key that a mask hides
            (padding; what the shift of a window brought together) has 0 or almost 0.
        points: Tensor[groups, n or 1, keys, 2], the keys' (x, y) in pixels of the network's input;
            1 if all queries share their keys. Groups share the heads equally, in order.
        values: Tensor[heads, n or 1, keys, value_dim].
    """

    weights: Tensor
    points: Tensor
    values: Tensor


@dataclass(frozen=True)
class RecordedBlock:
    """The attention of a block to one image; what is asked for is computed when it is asked for.

    It needs the model's weights as they were: ask before they are trained further.

    Attributes:
        name: Name of the module in the model, such as ``backbone.stages.2.blocks.1.attention``.
        stage: Number of the stage, from 0.
        block: Number of the block in its stage, from 0.
        kind: ``'deformable'`` (D), ``'pooled'`` (D with pooled keys), ``'neighborhood'`` (N),
            ``'window'`` (L, S, and Swin's), ``'interactive window'`` (IWSA), ``'scalable'`` (SSA),
            ``'pyramid'`` (P, and PVT's) or ``'slide'`` (E).
        map_size: (height, width) of the map of queries in positions.
        stride: Pixels of the network's input between neighboring positions.
        heads: Number of heads.
        groups: Number of groups of heads that have keys at places of their own.
        module: The attention module.
        features: Tensor[1, channels, height, width], its input.
    """

    name: str
    stage: int
    block: int
    kind: str
    map_size: tuple[int, int]
    stride: int
    heads: int
    groups: int
    module: nn.Module = field(repr=False)
    features: Tensor = field(repr=False)

    @property
    def title(self) -> str:
        """For a picture: stage and block from 1, and the kind."""
        return f'stage {self.stage + 1}, block {self.block + 1}: {self.kind}'

    @property
    def shares_keys(self) -> bool:
        """Whether all queries have the same keys: all kinds but windows, neighborhood and slide."""
        return self._keys_of in SHARING

    @torch.no_grad()
    def attend(self, queries: Tensor | Sequence[Sequence[float]]) -> Attention:
        """The attention of the positions that chosen pixels lie in.

        Args:
            queries: (n, 2), (x, y) in pixels of the network's input; those outside the map stand
                for the nearest position.

        Memory grows with the queries, not with the map; some kinds project the map once.
        """
        x, y = torch.as_tensor(queries, dtype=torch.float64).reshape(-1, 2).unbind(1)
        rows, columns = (
            (places / self.stride).floor().long().clamp(0, side - 1).to(self.features.device)
            for places, side in zip((y, x), self.map_size, strict=True)
        )
        pairs: Pairs = (
            self._shared.pairs(rows, columns)
            if self.shares_keys
            else self._keys_of(self.module, self.features, rows, columns)
        )
        return Attention(
            _plain(pairs.weights()), self._to_pixels(pairs.positions), _plain(pairs.value)
        )

    def attended(self) -> Tensor:
        """How much each key is attended: its weights, summed over all queries of the map.

        They sum up to the number of queries in each head.

        Returns:
            Tensor[heads, keys], for the keys at :attr:`key_points`.

        Raises:
            UserError: If the queries do not share their keys, as in windows.
        """
        return _plain(self._require_shared().received())

    @property
    def key_points(self) -> Tensor:
        """Tensor[groups, keys, 2]: where the keys that all queries share lie, (x, y) in pixels.

        Raises:
            UserError: If the queries do not share their keys, as in windows.
        """
        return self._to_pixels(self._require_shared().positions)

    @property
    def sampling_locations(self) -> Tensor:
        """Tensor[groups, key_height, key_width, 2]: where D samples its keys, (x, y) in pixels.

        Raises:
            UserError: If the block is not deformable.
        """
        return self._to_pixels(to_positions(self._locations, self.map_size))

    @property
    def reference_points(self) -> Tensor:
        """Tensor[key_height, key_width, 2]: where D's keys lie before their offsets, in pixels.

        The last of an axis lies past the map, as published.

        Raises:
            UserError: If the block is not deformable.
        """
        points = reference_points(*self._locations.shape[1:3])
        return self._to_pixels(to_positions(points, self.map_size))

    @property
    def offsets(self) -> Tensor:
        """Tensor[groups, key_height, key_width, 2]: how far D moves its keys, (x, y) in pixels.

        After what bounds them: location minus reference point.

        Raises:
            UserError: If the block is not deformable.
        """
        return self.sampling_locations - self.reference_points

    @property
    def _keys_of(self) -> Callable:
        found = kind_of(self.module)
        assert found is not None
        return found[1]

    @functools.cached_property
    def _shared(self) -> SharedKeys:
        with torch.no_grad():
            return self._keys_of(self.module, self.features)

    @functools.cached_property
    def _locations(self) -> Tensor:
        """Tensor[groups, key_height, key_width, 2], (y, x) in [-1, 1]."""
        if self.kind != 'deformable':
            raise UserError(f'{self.title} has no sampling locations: choose a deformable block')
        with torch.no_grad():
            module: Any = self.module
            return _plain(module.sampling_locations(module.query(self.features))[0])

    def _require_shared(self) -> SharedKeys:
        if not self.shares_keys:
            raise UserError(f'{self.title} has other keys for each query: choose another kind')
        return self._shared

    def _to_pixels(self, positions: Tensor) -> Tensor:
        return (_plain(positions).flip(-1) + 0.5) * self.stride


@dataclass(frozen=True)
class Recording:
    """The attention of all blocks to one image.

    Attributes:
        blocks: In the order of the forward pass.
        mapping: From pixels of the image to those of the network's input; the same if the input is
            the image.
    """

    blocks: tuple[RecordedBlock, ...]
    mapping: ImageMapping = UNCHANGED

    @property
    def stages(self) -> list[int]:
        """Numbers of the stages that have blocks, from 0."""
        return sorted({block.stage for block in self.blocks})

    def last(self, kind: str | None = None, stage: int | None = None) -> RecordedBlock:
        """The last block of a kind, or of any, in a stage, or in any.

        Raises:
            UserError: If there is none; says which there are.
        """
        found = [
            block
            for block in self.blocks
            if kind in (None, block.kind) and stage in (None, block.stage)
        ]
        if not found:
            wanted = f'{kind or ""} block'.strip()
            where = '' if stage is None else f' in stage {stage + 1}'
            there = '; '.join(
                f'stage {number + 1}: '
                + ', '.join(sorted({block.kind for block in self.blocks if block.stage == number}))
                for number in self.stages
            )
            raise UserError(f'there is no {wanted}{where}: choose from {there}')
        return found[-1]


@contextmanager
def record_attention(model: nn.Module) -> Iterator[list[Recording]]:
    """Record the attention of a forward pass of a backbone, or of a model that has one inside.

    Hooks note the inputs of attention modules while the context is entered, nothing is computed
    or copied; the rest is computed from them when it is asked for. After the context the list has
    a recording for each image of the batch. Of several passes (test-time augmentation, slides) it
    has the last.

    Args:
        model: Has modules of DAT, DAT++, ScalableViT, Swin (mmdet, mmsegmentation, mmpretrain) or
            PVT (mmdet). The attention of decoders and heads is not recorded.

    Raises:
        UserError: If the model has no such module.

    Example:
        >>> from mmdat.models import DATPlusPlus
        >>> with record_attention(backbone := DATPlusPlus('nano')) as recordings:
        ...     outputs = backbone(torch.rand(2, 3, 64, 96))
        >>> block = recordings[1].last('deformable')
        >>> weights, points, _ = block.attend([(10, 20)])
        >>> block.title, weights.shape, points.shape
        ('stage 4, block 2: deformable', torch.Size([8, 1, 6]), torch.Size([4, 1, 6, 2]))
    """
    inputs: dict[str, Tensor] = {}

    def hook(name: str, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        x = arguments[0].detach()
        if x.ndim == 3:  # (batch, positions, channels) and the map's size, in the toolboxes
            x = x.mT.unflatten(2, tuple(arguments[1]))
        inputs.pop(name, None)  # the order is that of the last pass
        inputs[name] = x

    modules = {name: module for name, module in model.named_modules() if kind_of(module)}
    if not modules:
        raise UserError(
            f'{type(model).__name__} has no attention that can be recorded: '
            'give a model on DAT, DAT++, ScalableViT, Swin or PVT'
        )
    handles = [
        module.register_forward_pre_hook(functools.partial(hook, name))
        for name, module in modules.items()
    ]
    recordings: list[Recording] = []
    try:
        yield recordings
    finally:
        for handle in handles:
            handle.remove()
    for index in range(len(next(iter(inputs.values()), ()))):
        blocks = (
            _recorded(name, modules[name], x[index : index + 1]) for name, x in inputs.items()
        )
        recordings.append(Recording(tuple(blocks)))


def record_batch(model: Any, batch: dict[str, Any]) -> list[Recording]:
    """Record a batch of a toolbox's pipeline, running the model's backbone alone.

    Args:
        batch: ``inputs`` and ``data_samples`` as a data loader, or a collated pipeline, gives them.

    Returns:
        A recording for each image, with its mapping from the original image.

    Raises:
        UserError: If the backbone has no attention that can be recorded.
    """
    data = model.data_preprocessor(batch, False)
    with torch.no_grad(), record_attention(model.backbone) as recordings:
        model.backbone(data['inputs'])
    return [
        replace(recording, mapping=ImageMapping.from_meta(sample.metainfo))
        for recording, sample in zip(recordings, data['data_samples'], strict=True)
    ]


def _recorded(name: str, module: Any, x: Tensor) -> RecordedBlock:
    found = kind_of(module)
    assert found is not None
    # backbone.stages.2.blocks.1.attention, and layers.2.1.0.attn of PVT
    stage, *_, block = map(int, re.findall(r'\.(\d+)(?=\.)', name))
    x = x.to(next(module.parameters()).dtype)
    heads = getattr(module, 'num_heads', None) or module.w_msa.num_heads
    return RecordedBlock(
        name=name,
        stage=stage,
        block=block,
        kind=found[0],
        map_size=(x.shape[2], x.shape[3]),
        stride=STEM_STRIDE << stage,
        heads=heads,
        groups=getattr(module, 'groups', 1) if found[0] == 'deformable' else 1,
        module=module,
        features=x,
    )


def _plain(x: Tensor) -> Tensor:
    return x.detach().float().cpu()
