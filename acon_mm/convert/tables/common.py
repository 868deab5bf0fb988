"""What several entries use."""

from collections.abc import Iterable

from torch import nn

from ..hosts import HostSite


def sites_after(layers: Iterable[nn.Module], acts: str) -> list[HostSite]:
    """A site after each of ``layers``: ``acts.0``, ``acts.1``, ..."""
    return [HostSite(f"{acts}.{i}", layer) for i, layer in enumerate(layers)]


def last_conv(block: nn.Module) -> nn.Module:
    """The last convolution of a BasicBlock or Bottleneck, or of the last block of a stage."""
    if isinstance(block, nn.Sequential):
        block = block[-1]
    return block.get_submodule("conv3" if hasattr(block, "conv3") else "conv2")
