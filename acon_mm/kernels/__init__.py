"""Implementations of ACON-C's forward and backward; :func:`backend_for` chooses one.

An implementation is a module with two functions over tensors that already broadcast against ``x``::

    forward(x, p1, p2, beta) -> y
    backward(grad_y, x, p1, p2, beta) -> grad_x, grad_p1, grad_p2, grad_beta

The gradients have the shapes of their tensors.
"""

from types import ModuleType

from torch import Tensor

from . import reference


def backend_for(x: Tensor) -> ModuleType:
    """The implementation that serves ``x``: the one place where a compiled kernel is chosen."""
    return reference
