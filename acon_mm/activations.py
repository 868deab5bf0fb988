"""The ACON activations as modules, registered in mmengine's root ``MODELS`` (arXiv 2009.04759).

All of them share the rules of :class:`Acon`: where the width comes from, which inputs fit, how they initialise.
"""

import math

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from . import functional as F
from .generator import all_at_once
from .layers import InnerConv2d, build_norm, normalize

#: beta of the 'relu' init: ``|ACON-C - ReLU| <= 0.2785 / beta``, that is 0.007 at most (at ``|x| = 0.032``)
RELU_BETA = 40.0

INITS = ("paper", "swish", "relu")
GENERATORS = ("channel", "layer", "pixel")


class Acon(nn.Module):
    """Base of the ACON activations: per-channel parameters, whose number may be told later.

    Args:
        num_channels: channels ``C`` of the input. ``None``: taken from the layer before, when the module is attached
            to its parent (see :mod:`acon_mm.width`).
        channel_dim: where the channels lie: 1 for ``(N, C)``, ``(N, C, L)``, ``(N, C, H, W)``, ``(N, C, D, H, W)``;
            -1 after Linear or LayerNorm. ``None``: as for ``num_channels``; 1 where nothing tells.
        init: initial values: ``'paper'`` (the authors'), ``'swish'`` (exactly SiLU) or ``'relu'`` (close to ReLU).
        inplace: accepted since ConvModule adds it; without effect, because backward needs the input.

    Raises:
        RuntimeError: at a call, while the module has no width.
        ValueError: at a call, where the input has another width; at build, for an unknown option.
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
        _check_option("init", init, self.inits)
        self.num_channels = num_channels
        self.channel_dim = channel_dim
        self.init = init
        #: where the module was attached, for error messages: ``"ConvModule.activate"``
        self.host: str | None = None
        if num_channels is not None:
            self._create(num_channels)
            self.reset_parameters()

    def set_width(self, num_channels: int, channel_dim: int) -> None:
        """Give the module the width and channel dimension that it was built without.

        Raises:
            ValueError: it was built with another width.
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

    def restart(self, init: str) -> None:
        """Take the initial values that ``init`` names, whatever the module was built with.

        Raises:
            ValueError: ``init`` is none that the class knows, or cannot be met.
        """
        _check_option("init", init, self.inits)
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
                f"{self._label()} has no width, since no layer before it tells one. "
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
        return type(self).__name__ + (f" at {self.host}" if self.host else "")

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
        width = "width from the layer before" if self.num_channels is None else str(self.num_channels)
        dim = "" if self.channel_dim in (None, 1) else f", channel_dim={self.channel_dim}"
        return f"{width}{dim}, init={self.init!r}"


@MODELS.register_module()
class AconA(Acon):
    r"""ACON-A, which is Swish with a learned beta.

    .. math::
        f(x) = x\,\sigma(\beta x)

    where :math:`\beta` is learned per channel and starts at 1, or at :data:`RELU_BETA` with ``init='relu'``.
    (Section 3.2; arguments: :class:`Acon`. Any shape whose ``channel_dim`` holds C; the result has the same.)
    """

    def _create(self, num_channels: int) -> None:
        self._create_per_channel("beta")

    def reset_parameters(self) -> None:
        _reset_beta(self.beta, self.init)

    def forward(self, x: Tensor) -> Tensor:
        dim = self._channel_dim_of(x)
        return F.acon_a(x, self.beta, dim)


@MODELS.register_module()
class AconB(Acon):
    r"""ACON-B.

    .. math::
        f(x) = (1 - p)\,x\,\sigma(\beta (1 - p)\,x) + p\,x

    where :math:`p` (initially 0.25; 0 with ``init='swish'`` and ``'relu'``) and :math:`\beta` (as in :class:`AconA`)
    are learned per channel. (Section 3.2; arguments: :class:`Acon`. Shapes as in :class:`AconA`.)
    """

    def _create(self, num_channels: int) -> None:
        self._create_per_channel("p", "beta")

    def reset_parameters(self) -> None:
        nn.init.constant_(self.p, 0.25 if self.init == "paper" else 0.0)
        _reset_beta(self.beta, self.init)

    def forward(self, x: Tensor) -> Tensor:
        dim = self._channel_dim_of(x)
        return F.acon_b(x, self.p, self.beta, dim)


@MODELS.register_module()
class AconC(Acon):
    r"""ACON-C: learns, per channel, the two slopes and whether to activate.

    .. math::
        f(x) = (p_1 - p_2)\,x\,\sigma(\beta (p_1 - p_2)\,x) + p_2\,x

    where :math:`p_1, p_2, \beta` are learned per channel. :math:`\beta \to 0` makes it linear,
    :math:`\beta \to \infty` makes it :math:`\max(p_1 x, p_2 x)`. Initially :math:`p_1 = 1, p_2 = 0, \beta = 1`
    (``'swish'``), :math:`\beta` = :data:`RELU_BETA` instead (``'relu'``), or :math:`p_1, p_2 \sim N(0, 1), \beta = 1`
    (``'paper'``). (Equation 7; arguments: :class:`Acon`. Shapes as in :class:`AconA`.)
    """

    def _create(self, num_channels: int) -> None:
        self._create_per_channel("p1", "p2", "beta")

    def reset_parameters(self) -> None:
        _reset_slopes(self.p1, self.p2, self.init)
        _reset_beta(self.beta, self.init)

    def forward(self, x: Tensor) -> Tensor:
        dim = self._channel_dim_of(x)
        return F.acon_c(x, self.p1, self.p2, self.beta, dim)


@MODELS.register_module()
class MetaAconC(Acon):
    r"""Meta-ACON-C: ACON-C whose beta is computed from the input, sample by sample.

    .. math::
        f(x) = (p_1 - p_2)\,x\,\sigma(G(x) (p_1 - p_2)\,x) + p_2\,x

    where :math:`p_1, p_2` are learned per channel and the generator :math:`G` is, with the scale :math:`k` (1 in the
    paper),

    - ``'channel'``: :math:`k\,\sigma(BN_2(fc_2(BN_1(fc_1(\mathrm{mean}_{hw}(x))))))`, one beta per sample and channel;
    - ``'layer'``: :math:`k\,\sigma(\sum_{chw} x)`, one beta per sample;
    - ``'pixel'``: :math:`k\,\sigma(x)`, one beta per element.

    The initial values make f what ``init`` says: with ``'swish'`` and ``'relu'`` the channel-wise generator starts at
    :math:`\sigma(0) = 1/2`, so :math:`k` = 2 or 2 :data:`RELU_BETA` gives ACON-C's initial beta. A batch norm that gets
    a single value per channel in training (batch size 1) normalises by its running statistics
    (:func:`acon_mm.layers.normalize`). (Section 3.3; shapes as in :class:`AconA`.)

    Args:
        num_channels, channel_dim, init, inplace: as in :class:`Acon`.
        generator: ``'channel'``, ``'layer'`` or ``'pixel'``.
        r: reduction: fc1 has ``max(r, C // r)`` outputs.
        norm_cfg: norm of the channel-wise generator; ``None``: none.
        beta_scale: the scale :math:`k`. ``None``: 1, 2 or 2 :data:`RELU_BETA`, for ``init`` ``'paper'``, ``'swish'``,
            ``'relu'``. It is saved with the parameters, and a checkpoint's replaces what ``init`` means.

    Raises:
        ValueError: as :class:`Acon`; ``init='relu'`` with another generator than ``'channel'``.
    """

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        generator: str = "channel",
        r: int = 16,
        norm_cfg: dict | None = dict(type="BN"),  # noqa: B006 - never changed
        init: str = "swish",
        beta_scale: float | None = None,
        **kwargs,
    ):
        _check_option("generator", generator, GENERATORS)
        if not isinstance(r, int) or r < 1:
            raise ValueError(f"r must be a positive int, got {r!r}")
        if beta_scale is not None and not beta_scale > 0:
            raise ValueError(f"beta_scale must be positive or None, got {beta_scale!r}")
        # Before the base's __init__, which creates the parameters where the width is known.
        self.generator, self.r, self.norm_cfg = generator, r, norm_cfg
        self._given_scale = None if beta_scale is None else float(beta_scale)
        self._set_start(init)
        super().__init__(num_channels, init=init, **kwargs)

    def restart(self, init: str) -> None:
        self._set_start(init)
        super().restart(init)

    def _set_start(self, init: str) -> None:
        if init == "relu" and self.generator != "channel":
            raise ValueError(
                f"generator={self.generator!r} cannot start as ReLU, since its beta falls to 0 where x is negative: "
                "use generator='channel' or another init"
            )
        default = {"paper": 1.0, "swish": 2.0, "relu": 2 * RELU_BETA}.get(init)
        self.beta_scale = default if self._given_scale is None else self._given_scale

    def _create(self, num_channels: int) -> None:
        self._create_per_channel("p1", "p2")
        if self.generator == "channel":
            hidden = max(self.r, num_channels // self.r)
            # Names and order are the authors'.
            self.fc1 = InnerConv2d(num_channels, hidden)
            self.bn1 = build_norm(self.norm_cfg, hidden, pooled=True)
            self.fc2 = InnerConv2d(hidden, num_channels)
            self.bn2 = build_norm(self.norm_cfg, num_channels, pooled=True)

    def reset_parameters(self) -> None:
        _reset_slopes(self.p1, self.p2, self.init)
        if self.generator != "channel":
            return
        for layer in (self.fc1, self.bn1, self.fc2, self.bn2):
            if not isinstance(layer, nn.Identity):
                layer.reset_parameters()
        if self.init != "paper":
            # G starts as the constant 1/2; its last layer learns first, as with zero-init residuals.
            affine = getattr(self.bn2, "weight", None)
            last = self.fc2 if affine is None or not affine.requires_grad else self.bn2
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        dim = self._channel_dim_of(x)
        if self.generator == "pixel":
            return F.acon_c_pixel(x, self.p1, self.p2, dim, self.beta_scale)
        if self.generator == "layer":
            beta = self._layer_beta(x)
        else:
            y = all_at_once(self, x, dim)
            if y is not None:
                return y
            x, mean = F.input_and_mean(x, dim)
            beta = self._channel_beta(mean)
        return F.acon_c(x, self.p1, self.p2, beta, dim)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        # Another scale makes another function of the same parameters, so it goes where they go.
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "beta_scale"] = torch.tensor(self.beta_scale)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        p1, scale = state_dict.get(prefix + "p1"), state_dict.pop(prefix + "beta_scale", None)
        if scale is None and p1 is not None and p1.dim() == 4:
            scale = 1.0  # the authors' form, which has none; where ours has none (0.1.0), the config's was meant
        if scale is not None:
            scale = float(scale)
            given = self._given_scale
            if not 0 < scale < math.inf:
                errors.append(f"{prefix}beta_scale must be positive and finite, got {scale}")
            elif given is not None and not math.isclose(given, scale, rel_tol=1e-6):
                errors.append(
                    f"{prefix}beta_scale is {scale:g} in the checkpoint and {given:g} in the config: "
                    "leave it out of act_cfg, then it is taken from the checkpoint"
                )
            else:
                self.beta_scale = scale if given is None else given
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    def _layer_beta(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1, keepdim=True, dtype=_at_least_float32(x))
        return self.beta_scale * torch.sigmoid(total)

    def _channel_beta(self, mean: Tensor) -> Tensor:
        hidden = _normalize_pooled(self.bn1, self.fc1(mean.to(self.fc1.weight.dtype)))
        beta = torch.sigmoid(_normalize_pooled(self.bn2, self.fc2(hidden)))
        return beta if self.beta_scale == 1 else self.beta_scale * beta

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, generator={self.generator!r}, beta_scale={self.beta_scale:g}"


@MODELS.register_module()
class AconFReLU(Acon):
    r"""ACON-FReLU: ACON between a value and its spatial condition.

    .. math::
        f(x) = BN_2((x - \eta(x))\,\sigma(x - \eta(x)) + \eta(x)), \quad \eta(x) = BN_1(\mathrm{depthwise}_{3x3}(x))

    (Table 1 and the authors' TFNet, which has :math:`BN_2`.) The 3x3 window lies over the last two dimensions of space;
    a missing one counts as size 1, a further one (depth) is part of the batch. Shapes as in :class:`AconA`.

    Args:
        num_channels, channel_dim, inplace: as in :class:`Acon`.
        norm_cfg: both norms; ``None``: none.
        out_norm: whether :math:`BN_2` follows.
        init: ``'paper'``: the window's weights are drawn from N(0, 0.01), its bias is 0.
    """

    inits = ("paper",)

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        norm_cfg: dict | None = dict(type="BN"),  # noqa: B006 - never changed
        out_norm: bool = True,
        init: str = "paper",
        **kwargs,
    ):
        self.norm_cfg, self.out_norm = norm_cfg, out_norm
        super().__init__(num_channels, init=init, **kwargs)

    def _create(self, num_channels: int) -> None:
        # Names are the authors'.
        self.conv_frelu = InnerConv2d(num_channels, num_channels, kernel_size=3, groups=num_channels)
        self.bn1 = build_norm(self.norm_cfg, num_channels)
        self.bn2 = build_norm(self.norm_cfg if self.out_norm else None, num_channels)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.conv_frelu.weight, std=0.01)
        nn.init.zeros_(self.conv_frelu.bias)
        for norm in (self.bn1, self.bn2):
            if not isinstance(norm, nn.Identity):
                norm.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        dim = self._channel_dim_of(x)
        maps, restore = _as_maps(x.to(self.conv_frelu.weight.dtype), dim)
        eta = normalize(self.bn1, self.conv_frelu(maps))
        return restore(normalize(self.bn2, F.acon_frelu(maps, eta)).to(x.dtype))


def _as_maps(x: Tensor, channel_dim: int):
    """``x`` as ``(N', C, H, W)``, and the function that brings a result back to the shape of ``x``."""
    channels_first = x.movedim(channel_dim, 1)
    while channels_first.dim() < 4:
        channels_first = channels_first.unsqueeze(2)
    depth = tuple(range(2, channels_first.dim() - 2))
    batched = channels_first.movedim(depth, tuple(range(1, 1 + len(depth))))
    maps = batched.flatten(0, len(depth))

    def restore(y: Tensor) -> Tensor:
        y = y.reshape(batched.shape).movedim(tuple(range(1, 1 + len(depth))), depth)
        return y.reshape(x.movedim(channel_dim, 1).shape).movedim(1, channel_dim)

    return maps, restore


def _normalize_pooled(norm: nn.Module, pooled: Tensor) -> Tensor:
    if isinstance(norm, nn.Identity):
        return pooled
    return normalize(norm, pooled[:, :, None, None]).flatten(1)


def _reset_slopes(p1: Tensor, p2: Tensor, init: str) -> None:
    if init == "paper":
        nn.init.normal_(p1)
        nn.init.normal_(p2)
    else:
        nn.init.ones_(p1)
        nn.init.zeros_(p2)


def _reset_beta(beta: Tensor, init: str) -> None:
    nn.init.constant_(beta, RELU_BETA if init == "relu" else 1.0)


def _check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
