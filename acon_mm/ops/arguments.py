"""The checks of the operators' arguments. ``csrc/arguments.h`` has the same ones, for the compiled library."""

from torch import Tensor


def check_input(x: Tensor, channel_dim: int) -> int:
    """The channel dimension of ``x``, counted from the front.

    Raises:
        IndexError: ``channel_dim`` is the batch, or not a dimension of ``x``.
        RuntimeError: the dtype of ``x`` is not a floating one.
    """
    if not x.is_floating_point():
        raise RuntimeError(f"ACON takes an input of a floating dtype, got {x.dtype}")
    rank = x.dim()
    dim = channel_dim + rank if channel_dim < 0 else channel_dim
    if not 0 < dim < rank:
        raise IndexError(
            f"channel_dim must be from 1 to {rank - 1} or negative for an input of {rank} dimensions, of which the "
            f"first is the batch, got {channel_dim}"
        )
    return dim


def check_arguments(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int) -> int:
    """The channel dimension of ``x``, counted from the front.

    Raises:
        IndexError: as :func:`check_input`.
        RuntimeError: a parameter is on another device than ``x``, its dtype is not a floating one, or its shape is not
            ``(C,)``, ``(N, C)`` or ``(N, 1)``.
    """
    dim = check_input(x, channel_dim)
    for parameter in (p1, p2, beta):
        _check_parameter(parameter, x, dim, channel_dim)
    return dim


def check_gradient(grad_y: Tensor, x: Tensor) -> None:
    """
    Raises:
        RuntimeError: ``grad_y`` has another shape, dtype or device than ``x``.
    """
    if (grad_y.device, grad_y.dtype, grad_y.shape) != (x.device, x.dtype, x.shape):
        raise RuntimeError(
            f"the gradient of ACON's result must be as its input, {x.dtype} of shape {list(x.shape)} on {x.device}, "
            f"got {grad_y.dtype} of shape {list(grad_y.shape)} on {grad_y.device}"
        )


def _check_parameter(parameter: Tensor, x: Tensor, dim: int, channel_dim: int) -> None:
    if parameter.device != x.device:
        raise RuntimeError(
            f"ACON takes its input and parameters on one device, got an input on {x.device} and a parameter on "
            f"{parameter.device}: move one of them by .to()"
        )
    if not parameter.is_floating_point():
        raise RuntimeError(f"ACON takes parameters of a floating dtype, got {parameter.dtype}")
    samples, channels = x.shape[0], x.shape[dim]
    if parameter.dim() == 1 and parameter.shape[0] == channels:
        return
    if parameter.dim() == 2 and parameter.shape[0] == samples and parameter.shape[1] in (1, channels):
        return
    raise RuntimeError(
        f"a parameter of shape {list(parameter.shape)} does not fit an input of shape {list(x.shape)} with channels at "
        f"dimension {channel_dim}: it must be (C,), (N, C) or (N, 1)"
    )
