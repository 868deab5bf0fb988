"""What all ACON activations share: where the channels come from, which inputs fit, how they initialise and load."""

import torch
from torch import Tensor, nn

#: beta of the 'relu' init: ``|ACON-C - ReLU| <= 0.2785 / beta``, that is 0.007 at most (at ``|x| = 0.032``)
RELU_BETA = 40.0

INITS = ("paper", "swish", "relu")


class Acon(nn.Module):
    """Base of the ACON activations: per-channel parameters, whose number may be told later.

    Args:
        num_channels: channels ``C`` of the input. ``None``: taken from the layer before, when the module is attached
            to its parent (see :mod:`acon_mm.convert`).
        channel_dim: where the channels lie: 1 for ``(N, C)``, ``(N, C, L)``, ``(N, C, H, W)``, ``(N, C, D, H, W)``;
            -1 after Linear or LayerNorm. ``None``: as for ``num_channels``; 1 where nothing tells.
        init: initial values: ``'paper'`` (the authors'), ``'swish'`` (exactly SiLU) or ``'relu'`` (close to ReLU).
        inplace: accepted since ConvModule adds it; without effect, because backward needs the input.

    Raises:
        RuntimeError: at a call, while the module does not know its number of channels.
        ValueError: at a call, where the input has another number of channels; at build, for an unknown option.
    """

    #: the values of ``init`` that the class knows
    inits: tuple[str, ...] = INITS

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        channel_dim: int | None = None,
        init: str = "swish",
        inplace: bool = False,
    ):
        super().__init__()
        if num_channels is not None and (not isinstance(num_channels, int) or num_channels < 1):
            raise ValueError(f"num_channels must be a positive int or None, got {num_channels!r}")
        if channel_dim == 0:
            raise ValueError("channel_dim must not be 0, which is the batch: 1, or -1 where channels come last")
        check_option("init", init, self.inits)
        self.num_channels = num_channels
        self.channel_dim = channel_dim
        self.init = init
        #: where the module was attached, for error messages: ``"ConvModule.activate"``
        self.location: str | None = None
        if num_channels is not None:
            self._create(num_channels)
            self.reset_parameters()

    def set_channels(self, num_channels: int, channel_dim: int) -> None:
        """Tell the module the number of channels and the channel dimension that it was built without.

        Raises:
            ValueError: it was built with another number of channels.
        """
        if self.num_channels not in (None, num_channels):
            raise ValueError(
                f"{self._label()} was given num_channels={self.num_channels}, but the layer before it has "
                f"{num_channels} channels: leave num_channels out, then it is taken from there"
            )
        if self.channel_dim is None:
            self.channel_dim = channel_dim
        if self.num_channels is None:
            self.num_channels = num_channels
            self._create(num_channels)
            self.reset_parameters()

    def reinitialize(self, init: str) -> None:
        """Take the initial values that ``init`` names, whatever the module was built with.

        Raises:
            ValueError: ``init`` is none that the class knows, or cannot be met.
        """
        check_option("init", init, self.inits)
        self.init = init
        self.reset_parameters()

    def _create(self, num_channels: int) -> None:
        """Create the parameters; :meth:`reset_parameters` gives them their values."""
        raise TypeError(f"{type(self).__name__} is a base class: build AconA, AconB, AconC, MetaAconC or AconFReLU")

    def _create_per_channel(self, *names: str) -> None:
        for name in names:
            setattr(self, name, nn.Parameter(torch.empty(self.num_channels)))

    def _channel_dim_of(self, x: Tensor) -> int:
        """The channel dimension, once the input is seen to fit."""
        if self.num_channels is None:
            raise RuntimeError(
                f"{self._label()} does not know its number of channels, since no layer before it tells it. "
                f"Write it down: act_cfg=dict(type='{type(self).__name__}', num_channels=...)"
            )
        dim = 1 if self.channel_dim is None else self.channel_dim
        if not max(2, dim + 1, -dim) <= x.dim() or x.shape[dim] != self.num_channels:
            raise ValueError(
                f"{self._label()} has {self.num_channels} channels, at dimension {dim}, and got an input of shape "
                f"{tuple(x.shape)}: set num_channels to the input's, and channel_dim=-1 where channels come last"
            )
        return dim

    def _label(self) -> str:
        return type(self).__name__ + (f" at {self.location}" if self.location else "")

    def apply(self, fn):
        """As ``nn.Module.apply``, but closed to mmengine's initialisers.

        These reach everything below a host (``init_cfg=dict(type='Normal', layer='Conv2d')``); what is inside an ACON
        takes its values from :meth:`reset_parameters` alone.
        """
        if getattr(fn, "__module__", None) == "mmengine.model.weight_init":
            return self
        return super().apply(fn)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # The authors store per-channel parameters as (1, C, 1, 1).
        for name in self._parameters:
            value = state_dict.get(prefix + name)
            if value is not None and value.dim() == 4 and value.numel() == value.shape[1]:
                state_dict[prefix + name] = value.flatten()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        channels = "channels from the layer before" if self.num_channels is None else str(self.num_channels)
        dim = "" if self.channel_dim in (None, 1) else f", channel_dim={self.channel_dim}"
        return f"{channels}{dim}, init={self.init!r}"


def reset_slopes(p1: Tensor, p2: Tensor, init: str) -> None:
    if init == "paper":
        nn.init.normal_(p1)
        nn.init.normal_(p2)
    else:
        nn.init.ones_(p1)
        nn.init.zeros_(p2)


def reset_beta(beta: Tensor, init: str) -> None:
    nn.init.constant_(beta, RELU_BETA if init == "relu" else 1.0)


def check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
