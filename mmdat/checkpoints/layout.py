"""What backbones and attention modules offer, so that published checkpoints can fill them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

# Both in the authors' checkpoints and in our backbones, the norm of a stage's output is
# norms.<stage>.
OUTPUT_NORMS = 'norms.'
# Our name of the weight of a backbone's first convolution.
STEM = 'embeddings.0.0.weight'


@dataclass(frozen=True, kw_only=True)
class PublishedLayout:
    """Where the tensors of the authors' checkpoints belong in a model on one backbone.

    Attributes:
        parameters: Their name of each parameter of the backbone, by ours.
        classifier: Their name of each parameter of a classifier's norm and head, by its name in
            mmpretrain's classifier. The norm is that of our backbone's last stage.
        unused: Their names of parameters that no computation of the backbone uses.
        absent_norms: Their names of the norms of outputs that the backbone does not return.
    """

    parameters: Mapping[str, str]
    classifier: Mapping[str, str]
    unused: frozenset[str]
    absent_norms: frozenset[str]


@runtime_checkable
class PublishedBackbone(Protocol):
    """A backbone that checkpoints of its authors can fill."""

    in_channels: int

    @property
    def unbuilt(self) -> tuple[str, ...]:
        """What names of stages and norms of outputs that it does not build begin with."""

    def published_layout(self) -> PublishedLayout:
        """Where the tensors of the authors' checkpoints belong."""

    def state_dict(self) -> dict[str, Any]:
        """Return parameters and buffers by name, as ``nn.Module`` does."""

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """Yield parameters by name, as ``nn.Module`` does."""

    def named_modules(self) -> Iterator[tuple[str, Any]]:
        """Yield modules by name, as ``nn.Module`` does."""


@runtime_checkable
class ResizesBiasTable(Protocol):
    """An attention module that can resize a bias table trained at another size."""

    def resize_bias_table(self, table: Tensor) -> Tensor:
        """Interpolate a table to the module's own size; unchanged if it has another layout."""


def published_names(backbone: PublishedBackbone) -> dict[str, str]:
    """The published name of each parameter of a backbone, by ours.

    Example:
        >>> from mmdat.models import DATPlusPlus
        >>> published_names(DATPlusPlus('nano'))['stages.1.blocks.1.norm2.weight']
        'stages.1.layer_norms.3.norm.weight'
    """
    return dict(backbone.published_layout().parameters)


def rename_parameters(parameters: Iterable[str], modules: Mapping[str, str]) -> dict[str, str]:
    """The new name of each parameter, from the new names of modules or of single parameters.

    Example:
        >>> rename_parameters(['ffn.expand.weight', 'scale'], {'ffn': 'mlp', 'scale': 'gamma'})
        {'ffn.expand.weight': 'mlp.expand.weight', 'scale': 'gamma'}
    """
    names = {}
    for parameter in parameters:
        module, leaf = parameter, ''
        while module and module not in modules:
            module, _, last = module.rpartition('.')
            leaf = f'.{last}{leaf}'
        names[parameter] = modules[module] + leaf
    return names
