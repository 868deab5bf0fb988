"""What all ACON activations share: the number of channels, the check of inputs, initial values and loading."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.fx.proxy import TraceError
from torch.nn.modules.module import _global_forward_hooks
from typing_extensions import Self

from ..compat import is_compiling
from ..ops.memory import least

#: beta of ``init='relu'``: ``|ACON-C - ReLU| <= 0.2785 / beta``, which is 0.007 (at ``|x| = 0.032``)
RELU_BETA = 40.0

#: More are taken for a mistake. Meta-ACON would have gigabytes of parameters.
MAX_CHANNELS = 65536

INITS = ("paper", "swish", "relu")
MEMORY = ("default", "least")


class _CountReferences(nn.Module):
    def forward(self, x: Tensor) -> int:
        return sys.getrefcount(x)


def _count_references() -> int:
    x = torch.empty(0)
    return _CountReferences()(x)


_REFERENCES_OF_A_CALL = _count_references()


def is_held_by_caller_alone(references: int) -> bool:
    """Whether one variable of the caller holds a tensor, and nothing else, as a hook or a list of features.

    ``references`` are those that :func:`sys.getrefcount` counts in a module's ``forward``.
    """
    return references <= _REFERENCES_OF_A_CALL and not _global_forward_hooks


class Acon(nn.Module):
    """Base of the ACON activations, which have parameters per channel. The number of channels may be set later.

    Args:
        num_channels: the channels ``C`` of the input. ``None``: taken from the layer before, when the module is
            attached to its parent (see :mod:`acon_mm.convert`).
        channel_dim: the dimension of the channels: 1 for ``(N, C)``, ``(N, C, L)``, ``(N, C, H, W)`` and
            ``(N, C, D, H, W)``; -1 after Linear or LayerNorm. ``None``: taken from the layer before, or 1.
        batch_first: the layout of tokens, which are inputs of three dimensions with the channels last: ``True`` for
            ``(N, L, C)``, ``False`` for ``(L, N, C)``. Meta-ACON and ACON-FReLU need it there, because they must not
            mix the samples. The others compute the same for both. In modules of mmdet, mmseg and mmpretrain it becomes
            ``True``.
        init: the initial values: ``'paper'`` (the authors'), ``'swish'`` (exactly SiLU) or ``'relu'`` (close to ReLU).
        memory: what is kept for backward. ``'default'``: the input, not the output. ``'least'``: not the input either,
            where the layer before keeps what it takes to compute it again; this costs some time. It concerns ACON-A,
            -B and -C, and Meta-ACON with one beta per channel or layer. (:mod:`acon_mm.ops.memory`)
        inplace: whether the output may overwrite the input. It does where both are one operator with the batch norm
            before, and nobody else has the norm's output (:mod:`acon_mm.ops.memory`). Elsewhere backward needs the
            input.

    Raises:
        RuntimeError: at a call, if the number of channels is not known.
        TypeError: at a call, if the dtype of the input is not a floating one.
        ValueError: at a call, if the input has another number of channels, or is of tokens whose layout is not known;
            at build, if an option is unknown.
    """

    #: the values of ``init`` that the class accepts
    inits: tuple[str, ...] = INITS
    # An instance that was pickled by an older version has none of its own.
    inplace = False

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        channel_dim: int | None = None,
        batch_first: bool | None = None,
        init: str = "swish",
        memory: str = "default",
        inplace: bool = False,
    ):
        super().__init__()
        if num_channels is not None:
            check_count("num_channels", num_channels, "leave it out to take it from the layer before")
        if channel_dim is not None and (type(channel_dim) is not int or channel_dim == 0):
            raise ValueError(
                f"channel_dim must be an int and not 0, which is the batch, got {channel_dim!r}: use 1, or -1 where "
                "channels are last"
            )
        if batch_first is not None and not isinstance(batch_first, bool):
            raise ValueError(f"batch_first must be True, False or None, got {batch_first!r}")
        check_option("init", init, self.inits)
        check_option("memory", memory, MEMORY)
        check_option("inplace", inplace, (False, True))
        self.num_channels = num_channels
        self.channel_dim = channel_dim
        self.batch_first = batch_first
        self.init = init
        self.memory = memory
        self.inplace = inplace
        #: the place where the module was attached, for error messages: ``"ConvModule.activate"``
        self.location: str | None = None
        if num_channels is not None:
            self._create(num_channels)
            self.reset_parameters()

    def set_channels(self, num_channels: int, channel_dim: int) -> None:
        """Set the number of channels and the channel dimension, where the module was built without them.

        Raises:
            ValueError: the module was built with another number of channels.
        """
        if self.num_channels not in (None, num_channels):
            raise ValueError(
                f"{self._label()} was given num_channels={self.num_channels}, but the layer before it has "
                f"{num_channels} channels: leave num_channels out to take it from there"
            )
        if self.channel_dim is None:
            self.channel_dim = channel_dim
        if self.num_channels is None:
            self.num_channels = num_channels
            self._create(num_channels)
            self.reset_parameters()

    def reinitialize(self, init: str) -> None:
        """Change ``init``, and reset the parameters to its initial values.

        Raises:
            ValueError: the class does not accept ``init``.
        """
        check_option("init", init, self.inits)
        self.init = init
        self.reset_parameters()

    def _create(self, num_channels: int) -> None:
        """Create the parameters. :meth:`reset_parameters` sets their values."""
        raise TypeError(f"{type(self).__name__} is a base class: build AconA, AconB, AconC, MetaAconC or AconFReLU")

    def reset_parameters(self) -> None:
        """Set the parameters to the initial values that ``init`` names."""

    def _create_per_channel(self, *names: str) -> None:
        assert self.num_channels is not None
        for name in names:
            setattr(self, name, nn.Parameter(torch.empty(self.num_channels)))

    def forward(self, x: Tensor) -> Tensor:
        # Only what every call needs stands here: Python takes as long as the activation of a small map.
        try:
            is_other = not x.dtype.is_floating_point
        except TraceError:  # in torch.fx, x stands for any tensor, which has no dtype yet
            return self._in_fx_graph(x)
        if is_other:
            raise TypeError(
                f"{self._label()} takes an input of a floating dtype, got {x.dtype}: convert it by .float()"
            )
        dim = 1 if self.channel_dim is None else self.channel_dim
        if not max(2, dim + 1, -dim) <= x.dim() or x.shape[dim] != self.num_channels:
            self._check_channels(x, dim)
        if is_compiling():
            return self._activate(x, dim, False)
        inplace = (
            self.inplace
            and torch.is_grad_enabled()
            and not self._forward_hooks
            and is_held_by_caller_alone(sys.getrefcount(x))
        )
        if self.memory == "least":
            with least(x):
                return self._activate(x, dim, inplace)
        return self._activate(x, dim, inplace)

    def _activate(self, x: Tensor, channel_dim: int, inplace: bool) -> Tensor:
        """The activation of an input that fits; ``inplace``: it may be overwritten."""
        raise NotImplementedError

    def _check_channels(self, x: Tensor, dim: int) -> None:
        if self.num_channels is None:
            raise RuntimeError(
                f"{self._label()} does not know its number of channels, because no layer before it has one. "
                f"Write it in the config: act_cfg=dict(type='{type(self).__name__}', num_channels=...)"
            )
        self._follow_parameters()
        if not max(2, dim + 1, -dim) <= x.dim() or x.shape[dim] != self.num_channels:
            raise ValueError(
                f"{self._label()} has {self.num_channels} channels, at dimension {dim}, and got an input of shape "
                f"{tuple(x.shape)}: set num_channels to that of the input, and channel_dim=-1 where channels are last"
            )

    def _has_batch_second(self, tokens: Tensor) -> bool:
        if self.batch_first is None:
            raise ValueError(
                f"{self._label()} got tokens of shape {tuple(tokens.shape)}, and it must know which dimension is the "
                "batch: add batch_first=True to its act_cfg for (N, L, C), or batch_first=False for (L, N, C)"
            )
        return not self.batch_first

    def _follow_parameters(self) -> None:
        """Take the number of channels from the parameters, which a tool for pruning may have cut."""
        for parameter in self._parameters.values():
            if parameter is not None:
                self.num_channels = len(parameter)

    def _in_fx_graph(self, x: Any) -> Any:
        """A call of this module in the graph, as ``torch.fx`` has it for PyTorch's own layers."""
        path = x.tracer.path_of_module(self)
        if not path:
            raise TraceError(
                f"torch.fx cannot trace {type(self).__name__} alone: trace a model that contains it, such as "
                "nn.Sequential(activation)"
            )
        return x.tracer.create_proxy("call_module", path, (x,), {})

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(
            f"torch.jit.script cannot compile {self._label()}: use torch.jit.trace, torch.export, torch.compile or an "
            "export to ONNX"
        )

    def _label(self) -> str:
        return type(self).__name__ + (f" at {self.location}" if self.location else "")

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """As ``nn.Module.apply``, but the initializers of mmengine have no effect.

        A parent's ``init_cfg=dict(type='Normal', layer='Conv2d')`` would initialize the layers inside an ACON too. Only
        :meth:`reset_parameters` does.
        """
        if getattr(fn, "__module__", None) == "mmengine.model.weight_init":
            return self
        return super().apply(fn)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # The authors' files have (1, C, 1, 1).
        for name in self._parameters:
            value = state_dict.get(prefix + name)
            if value is not None and value.dim() == 4 and value.numel() == value.shape[1]:
                state_dict[prefix + name] = value.flatten()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        channels = "channels from the layer before" if self.num_channels is None else str(self.num_channels)
        dim = "" if self.channel_dim in (None, 1) else f", channel_dim={self.channel_dim}"
        memory = "" if self.memory == "default" else f", memory={self.memory!r}"
        inplace = ", inplace=True" if self.inplace else ""
        return f"{channels}{dim}, init={self.init!r}{memory}{inplace}"


def reset_slopes(p1: Tensor, p2: Tensor, init: str) -> None:
    if init == "paper":
        nn.init.normal_(p1)
        nn.init.normal_(p2)
    else:
        nn.init.ones_(p1)
        nn.init.zeros_(p2)


def reset_beta(beta: Tensor, init: str) -> None:
    nn.init.constant_(beta, RELU_BETA if init == "relu" else 1.0)


def check_count(name: str, value: int, way_out: str) -> None:
    if type(value) is not int or not 1 <= value <= MAX_CHANNELS:  # a bool is an int too
        raise ValueError(f"{name} must be an int from 1 to {MAX_CHANNELS}, got {value!r}: {way_out}")


def check_option(name: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
