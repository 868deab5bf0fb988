"""The betas that Meta-ACON computes from its input."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..layers import MetaAconC
from ..ops import reference


class RecordedBetas:
    """Writes down the beta of each :class:`MetaAconC` of a model at each call, until :meth:`stop`.

    Attributes:
        calls: by the name of the module, the betas of each call: ``(N, C)``, averaged over space for
            ``generator='pixel'``. They are computed with the norms' running statistics, which stay as they are.
        maps: for ``generator='pixel'`` and if ``keep_maps``, beta averaged over channels, ``(N, ...)``.
    """

    def __init__(self, model: nn.Module, keep_maps: bool = False):
        self.calls: dict[str, list[Tensor]] = defaultdict(list)
        self.maps: dict[str, list[Tensor]] = defaultdict(list)
        self.keep_maps = keep_maps
        self._handles = [
            module.register_forward_pre_hook(lambda module, args, name=name: self._record(name, module, args[0]))
            for name, module in model.named_modules()
            if isinstance(module, MetaAconC)
        ]

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def means(self) -> dict[str, Tensor]:
        """The mean beta of each channel over all samples and calls, ``(C,)``, by the name of the module."""
        return {name: torch.cat(calls).mean(0) for name, calls in self.calls.items()}

    @torch.no_grad()
    def _record(self, name: str, module: MetaAconC, x: Tensor) -> None:
        if x.numel() == 0:
            return
        dim = (1 if module.channel_dim is None else module.channel_dim) % x.dim()
        if module.generator == "pixel":
            beta = module.beta_scale * x.float().sigmoid()
            self.calls[name].append(reference.spatial_mean(beta, dim).cpu())
            if self.keep_maps:
                self.maps[name].append(beta.mean(dim).cpu())
            return
        if module.generator == "layer":
            beta = module._layer_beta(x).expand(-1, x.shape[dim])
        else:
            with _evaluating(module):
                beta = module._channel_beta(reference.spatial_mean(x, dim))
        self.calls[name].append(beta.float().cpu())


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in training.items():
            each.training = mode
