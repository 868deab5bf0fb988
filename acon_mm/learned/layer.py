"""The slopes and betas of each ACON of a model, and what its channels have become: linear, ReLU-like or other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..layers import Acon, AconA, AconB, AconC, AconFReLU, MetaAconC
from ..ops import reference

#: the inputs for which curves are drawn and compared
GRID = torch.linspace(-3, 3, 61)
#: a channel is near a shape if the distance is below this share of the curve, both as root mean squares over GRID
TOLERANCE = 0.1
KINDS = ("linear", "relu", "other")


@dataclass
class Layer:
    """An ACON with its parameters as those of ACON-C, each ``(C,)``.

    Attributes:
        name: the name of the module.
        type: its class.
        p1, p2: the slopes.
        beta: None where it depends on the input and no input was seen.
    """

    name: str
    type: str
    p1: Tensor
    p2: Tensor
    beta: Tensor | None

    def curves(self) -> Tensor:
        """The value of each channel at each input of GRID, ``(C, 61)``; a beta that is not known is 1."""
        beta = torch.ones_like(self.p1) if self.beta is None else self.beta
        x = GRID.to(self.p1).expand(1, len(self.p1), len(GRID))
        return reference.forward(x, self.p1, self.p2, beta, 1)[0]

    def kinds(self) -> Tensor:
        """What each channel is near to, ``(C,)``: an index of KINDS.

        ``'linear'`` is :math:`a x`, and ``'relu'`` is :math:`a\\,max(x, 0)` or :math:`a\\,max(-x, 0)`, with the
        :math:`a` that fits best.
        """
        curves = self.curves()
        x = GRID.to(curves)
        linear, relu = (
            torch.stack([_misfit(curves, shape) for shape in shapes]).amin(0)
            for shapes in ((x,), (x.clamp(min=0), (-x).clamp(min=0)))
        )
        kinds = torch.full(linear.shape, KINDS.index("other"), device=linear.device)
        kinds[relu < TOLERANCE] = KINDS.index("relu")
        kinds[linear < TOLERANCE] = KINDS.index("linear")
        return kinds

    def shares(self) -> dict[str, float]:
        """The share of channels of each kind."""
        kinds = self.kinds()
        return {name: (kinds == index).float().mean().item() for index, name in enumerate(KINDS)}

    def as_dict(self) -> dict[str, Any]:
        """The layer as plain values, for JSON."""
        values = {name: getattr(self, name) for name in ("p1", "p2", "beta")}
        return {"name": self.name, "type": self.type} | {
            name: None if each is None else [round(value, 6) for value in each.tolist()]
            for name, each in values.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`as_dict` has written."""
        tensors = {name: None if values[name] is None else torch.tensor(values[name]) for name in ("p1", "p2", "beta")}
        return cls(values["name"], values["type"], **tensors)  # type: ignore[arg-type]


def _misfit(curves: Tensor, shape: Tensor) -> Tensor:
    """The distance of each curve from its best multiple of a shape, as a share of the curve."""
    best = (curves @ shape) / (shape @ shape)
    size = curves.norm(dim=1)
    return torch.where(size > 0, (curves - best[:, None] * shape).norm(dim=1) / size, torch.zeros_like(size))


def layers_of(model: nn.Module, betas: Mapping[str, Tensor] | None = None) -> list[Layer]:
    """The ACONs of a model that are a curve per channel: all but :class:`AconFReLU`.

    Args:
        model: a model whose ACONs know their channels.
        betas: the beta of each :class:`MetaAconC`, ``(C,)``, by the name of the module.
    """
    layers = []
    for name, module in model.named_modules():
        if isinstance(module, Acon) and not isinstance(module, AconFReLU):
            p1, p2, beta = _parameters(module)
            given = (betas or {}).get(name, beta)
            # Copies, since training goes on.
            copies = (None if each is None else each.detach().float().cpu().clone() for each in (p1, p2, given))
            layers.append(Layer(name, type(module).__name__, *copies))  # type: ignore[arg-type]
    return layers


def _parameters(module: Acon) -> tuple[Tensor, Tensor, Tensor | None]:
    """p1, p2 and beta of the ACON-C that computes the same."""
    if isinstance(module, (AconC, MetaAconC)):
        return module.p1, module.p2, module.beta if isinstance(module, AconC) else None
    if isinstance(module, AconB):
        return torch.ones_like(module.p), module.p, module.beta
    assert isinstance(module, AconA)
    return torch.ones_like(module.beta), torch.zeros_like(module.beta), module.beta
