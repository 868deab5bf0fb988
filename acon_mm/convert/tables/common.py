"""What several entries use."""

from collections.abc import Iterable, Sequence

from torch import nn

from ..hosts import HostSite


def sites_after(layers: Iterable[nn.Module], acts: str) -> list[HostSite]:
    """A site after each of ``layers``: ``acts.0``, ``acts.1``, ..."""
    return [HostSite(f"{acts}.{i}", layer) for i, layer in enumerate(layers)]


def sites_in_list(layers: Sequence[nn.Module], name: str, every: int) -> list[HostSite]:
    """The sites of the list ``name``, in which the last of every ``every`` layers is an activation."""
    return [HostSite(f"{name}.{i}", layers[i - 1]) for i in range(every - 1, len(layers), every)]


def last_conv(block: nn.Module) -> nn.Module:
    """The last convolution of a BasicBlock or Bottleneck, or of the last block of a stage."""
    if isinstance(block, nn.Sequential):
        block = block[-1]
    return block.get_submodule("conv3" if hasattr(block, "conv3") else "conv2")
