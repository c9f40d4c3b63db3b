"""First values of a backbone's parameters."""

from torch import nn


def init_projections(module: nn.Module) -> None:
    """Draw the weights of linear layers and 1 x 1 convolutions from a truncated normal of std 0.02.

    Their biases become 0. Convolutions that look at more than a point keep PyTorch's own
    initialization, which scales with their fan-in.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear) or (
            isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
        ):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
