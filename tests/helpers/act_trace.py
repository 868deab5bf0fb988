"""The activations that run in a model: every ReLU-like operation, with the module that calls it.

`acon_mm.analysis.config_coverage.trace` records them as well, by stack frames. This one uses forward hooks and shares
no code with it or with the tables, so that one mistake cannot hide the same activation from both.
"""

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from acon_mm.layers import Acon

RELU_LIKE = frozenset(
    f"{name}{suffix}"
    for name in (
        *("relu", "relu6", "hardtanh", "leaky_relu", "elu", "celu", "selu", "rrelu_with_noise"),
        *("gelu", "silu", "mish", "hardswish", "prelu", "_prelu_kernel", "threshold"),
    )
    for suffix in ("", "_")
)


#: also after an error, which PyTorch 2.0 cannot
ALWAYS = dict(always_call=True) if hasattr(nn.Module(), "_forward_hooks_always_called") else {}


class ActivationTrace(TorchDispatchMode):
    """Collects, while it is active, the ReLU-like operations that run outside of ACONs, and the ACONs that run.

    Attributes:
        calls: ``"relu in encoder.block"``: the operation, and the innermost module that is running.
        acons: names of the ACONs that ran.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.calls: set[str] = set()
        self.acons: set[str] = set()
        self._running: list[tuple[str, nn.Module]] = []
        self._handles = []
        for name, module in model.named_modules():
            self._handles += [
                module.register_forward_pre_hook(lambda module, _, name=name: self._enter(name, module)),
                module.register_forward_hook(lambda *_: self._leave(), **ALWAYS),
            ]

    def _enter(self, name: str, module: nn.Module) -> None:
        self._running.append((name, module))
        if isinstance(module, Acon):
            self.acons.add(name)

    def _leave(self) -> None:
        self._running.pop()

    def __exit__(self, *args):
        for handle in self._handles:
            handle.remove()
        return super().__exit__(*args)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        # Backward passes run outside of all modules.
        if name in RELU_LIKE and self._running and not any(isinstance(m, Acon) for _, m in self._running):
            self.calls.add(f"{name.rstrip('_')} in {self._running[-1][0]}")
        return func(*args, **(kwargs or {}))


def acons(model: nn.Module) -> dict[str, Acon]:
    """The ACONs of a model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Acon)}


def total(outputs) -> torch.Tensor:
    """A scalar that depends on every tensor in the outputs, also in nested lists, tuples and dicts."""
    if isinstance(outputs, torch.Tensor):
        return outputs.float().square().mean()
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return sum(total(value) for value in values if value is not None)
