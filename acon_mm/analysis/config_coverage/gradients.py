"""Which activations of a model get no gradient from its loss."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...convert.sites import find_sites


def without_gradient(loss: Tensor, modules: Mapping[str, nn.Module], full: bool = False) -> list[str]:
    """The names of the modules to whose parameters the loss gives no gradient.

    Args:
        loss: a scalar.
        modules: to look at, by name.
        full: compute the gradients of all parameters, which takes longer, instead of those of ``modules`` alone.
    """
    learning = {name: [p for p in module.parameters() if p.requires_grad] for name, module in modules.items()}
    if full:
        _backward(loss)
        return [name for name, parameters in learning.items() if not all(p.grad is not None for p in parameters)]
    wanted = [p for parameters in learning.values() for p in parameters]
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True) if wanted and loss.requires_grad else []
    reached = {id(p) for p, gradient in zip(wanted, gradients) if gradient is not None}
    return [name for name, parameters in learning.items() if not all(id(p) in reached for p in parameters)]


def never_learns(model: nn.Module, original: nn.Module, names: list[str], original_loss: Tensor) -> list[str]:
    """Those of the activations ``names`` of ``model`` whose preceding layer gets no gradient in ``original`` either."""
    _backward(original_loss)
    paths = {id(module): path for path, module in model.named_modules(remove_duplicate=False)}
    layer_before = {site.path: paths[id(site.source)] for site in find_sites(model)[0]}
    return [
        name
        for name in names
        if name in layer_before and all(p.grad is None for p in original.get_submodule(layer_before[name]).parameters())
    ]


def _backward(loss: Tensor) -> None:
    if loss.requires_grad:
        loss.backward()
