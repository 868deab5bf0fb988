"""Meta-ACON-C (arXiv 2009.04759, section 3.3): the activation, its generator, and the call of both as one operator."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

from ..compat import is_compiling
from ..ops import cpu
from ..ops import functional as F
from ..ops.backends import fuses
from ..ops.generator import Generator
from ..registering import register
from .base import INITS, RELU_BETA, Acon, check_count, check_option, reset_slopes
from .inner import InnerConv2d, build_norm, has_batch_statistics, normalize, reset_norm

GENERATORS = ("channel", "layer", "pixel")

#: the most samples for the fused operator on a CPU; with more, PyTorch's matrix products are faster
FEW_SAMPLES = 16

_GLOBAL_HOOKS = (_global_backward_hooks, _global_backward_pre_hooks, _global_forward_hooks, _global_forward_pre_hooks)


@register(MODELS)
class MetaAconC(Acon):
    r"""Meta-ACON-C: ACON-C with a beta that is computed from the input, sample by sample.

    .. math::
        f(x) = (p_1 - p_2)\,x\,\sigma(G(x) (p_1 - p_2)\,x) + p_2\,x

    where :math:`p_1, p_2` are learned per channel. The scale :math:`k` is 1 in the paper. The generator :math:`G` is

    - ``'channel'``: :math:`k\,\sigma(BN_2(fc_2(BN_1(fc_1(\mathrm{mean}_{hw}(x))))))`, one beta per sample and channel;
    - ``'layer'``: :math:`k\,\sigma(\sum_{chw} x)`, one beta per sample;
    - ``'pixel'``: :math:`k\,\sigma(x)`, one beta per element.

    With ``init='swish'`` and ``'relu'``, the channel-wise generator starts at :math:`\sigma(0) = 1/2`. So :math:`k` = 2
    or 2 :data:`RELU_BETA` gives the initial beta of :class:`AconC`. A batch norm that gets one value per channel in
    training (batch size 1) uses its running statistics (:func:`acon_mm.layers.inner.normalize`). (Section 3.3.)

    Args:
        num_channels, channel_dim, batch_first, init, inplace: see :class:`Acon`.
        generator: ``'channel'``, ``'layer'`` or ``'pixel'``.
        r: the reduction: fc1 has ``max(r, C // r)`` outputs.
        norm_cfg: the config of the norms of the channel-wise generator; ``None``: no norms.
        beta_scale: the scale :math:`k`. ``None``: 1, 2 or 2 :data:`RELU_BETA`, for ``init`` ``'paper'``, ``'swish'`` or
            ``'relu'``. It is saved with the parameters; the value of a checkpoint replaces that of ``init``.

    Shape:
        as in :class:`AconA`

    Raises:
        ValueError: as :class:`Acon`; also for ``init='relu'`` with another generator than ``'channel'``.
    """

    p1: nn.Parameter
    p2: nn.Parameter
    fc1: InnerConv2d
    bn1: nn.Module
    fc2: InnerConv2d
    bn2: nn.Module

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        generator: str = "channel",
        r: int = 16,
        norm_cfg: dict | None = dict(type="BN"),  # noqa: B006 - never changed
        init: str = "swish",
        beta_scale: float | None = None,
        **kwargs: Any,
    ):
        check_option("init", init, INITS)
        check_option("generator", generator, GENERATORS)
        check_count("r", r, "16 is the authors' and the default")
        number = isinstance(beta_scale, (int, float)) and not isinstance(beta_scale, bool)
        if beta_scale is not None and not (number and 0 < beta_scale < math.inf):
            raise ValueError(
                f"beta_scale must be a positive and finite number, got {beta_scale!r}: leave it out for that of init"
            )
        # These come first, because the base's __init__ may create the parameters.
        self.generator, self.r, self.norm_cfg = generator, r, norm_cfg
        self._given_scale = None if beta_scale is None else float(beta_scale)
        self._set_default_scale(init)
        super().__init__(num_channels, init=init, **kwargs)

    def reinitialize(self, init: str) -> None:
        self._set_default_scale(init)
        super().reinitialize(init)

    def _set_default_scale(self, init: str) -> None:
        if init == "relu" and self.generator != "channel":
            raise ValueError(
                f"generator={self.generator!r} cannot start as ReLU, because its beta is near 0 where x is negative: "
                "use generator='channel' or another init"
            )
        default = {"paper": 1.0, "swish": 2.0}.get(init, 2 * RELU_BETA)
        self.beta_scale = default if self._given_scale is None else self._given_scale

    def _create(self, num_channels: int) -> None:
        self._create_per_channel("p1", "p2")
        if self.generator == "channel":
            hidden = max(self.r, num_channels // self.r)
            # The names and their order are the authors'.
            self.fc1 = InnerConv2d(num_channels, hidden)
            self.bn1 = build_norm(self.norm_cfg, hidden, self._label(), pooled=True)
            self.fc2 = InnerConv2d(hidden, num_channels)
            self.bn2 = build_norm(self.norm_cfg, num_channels, self._label(), pooled=True)

    def reset_parameters(self) -> None:
        reset_slopes(self.p1, self.p2, self.init)
        if self.generator != "channel":
            return
        for layer, norm in ((self.fc1, self.bn1), (self.fc2, self.bn2)):
            layer.reset_parameters()
            reset_norm(norm)
        if self.init != "paper":
            # G starts as the constant 1/2. As with a residual branch that starts at 0, the last layer learns first.
            affine = getattr(self.bn2, "weight", None)
            last: Any = self.fc2 if affine is None or not affine.requires_grad else self.bn2
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def _activate(self, x: Tensor, channel_dim: int, inplace: bool) -> Tensor:
        if channel_dim != 1 and x.dim() == 3 and self.generator != "pixel" and self._has_batch_second(x):
            return self._activate(x.permute(1, 2, 0), 1, False).permute(2, 0, 1)
        if not F.is_exporting() and x.numel() == 0 and x.dim() > 2:
            # Without space there is no mean, and nothing for running statistics to learn from: as an empty batch.
            return self._activate(x.reshape(0, x.shape[channel_dim]), 1, False).reshape(x.shape)
        if self.generator == "pixel":
            return F.acon_c_pixel(x, self.p1, self.p2, channel_dim, self.beta_scale)
        if self.generator == "layer":
            beta = self._layer_beta(x)
        else:
            y = fused_meta_acon(self, x, channel_dim, inplace)
            if y is not None:
                return y
            x, mean = F.input_and_mean(x, channel_dim)
            beta = self._channel_beta(mean)
        return F.acon_c(x, self.p1, self.p2, beta, channel_dim)

    def get_extra_state(self) -> Tensor:
        """``beta_scale``. It is saved, because with another scale the same parameters are another function."""
        return torch.tensor(self.beta_scale, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.beta_scale = float(state)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        key, p1 = prefix + "_extra_state", state_dict.get(prefix + "p1")
        if prefix + "beta_scale" in state_dict:  # its key in older files
            state_dict.setdefault(key, state_dict.pop(prefix + "beta_scale"))
        elif key not in state_dict:
            # The authors' files have no scale and mean 1; their p1 is (1, C, 1, 1). Files of 0.1.0 mean the config's.
            theirs = p1 is not None and p1.dim() == 4
            state_dict[key] = torch.tensor(1.0) if theirs else self.get_extra_state()
        if problem := self._problem_of_scale(float(state_dict[key])):
            errors.append(f"{prefix}beta_scale {problem}")
            state_dict[key] = self.get_extra_state()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    def _problem_of_scale(self, saved: float) -> str | None:
        if not 0 < saved < math.inf:
            return f"must be positive and finite, got {saved}"
        if self._given_scale is not None and not math.isclose(self._given_scale, saved, rel_tol=1e-6):
            return (
                f"is {saved:g} in the checkpoint and {self._given_scale:g} in the config: "
                "leave it out of act_cfg to take it from the checkpoint"
            )
        return None

    def _layer_beta(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        return self.beta_scale * torch.sigmoid(total)

    def _channel_beta(self, mean: Tensor) -> Tensor:
        # In float32 with half parameters too: a mean, a sum or the gradient of beta may be beyond float16.
        wide = isinstance(self.fc1, InnerConv2d) and isinstance(self.fc2, InnerConv2d)
        dtype = torch.promote_types(self.fc1.weight.dtype, mean.dtype) if wide else self.fc1.weight.dtype
        hidden = _normalize_pooled(self.bn1, self.fc1(mean.to(dtype)))
        beta = torch.sigmoid(_normalize_pooled(self.bn2, self.fc2(hidden)).to(torch.promote_types(dtype, mean.dtype)))
        return beta if self.beta_scale == 1 else self.beta_scale * beta

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, generator={self.generator!r}, beta_scale={self.beta_scale:g}"


def fused_meta_acon(module: MetaAconC, x: Tensor, channel_dim: int, inplace: bool = False) -> Tensor | None:
    """The output of a channel-wise :class:`MetaAconC`, by one operator; None where the operator cannot compute it.

    The module must call its layers one by one:

    - without compiled kernels for the device, under ``torch.compile`` and export;
    - on a CPU with more than 16 samples, and where there is no space to take the mean over;
    - with other norms than batch norms that have running statistics, weights and the same options;
    - where a parameter has another dtype than the operator computes in;
    - where a layer has hooks or a ``forward`` of its own, was replaced by another class, or computes its weight, and
      where there are hooks on all modules.

    ``inplace``: x may be overwritten, see :class:`Acon`.

    Shape:
        x ``(N, ..., C, ...)`` with C at ``channel_dim``; the result has the same shape.
    """
    if not fuses(x.device.type) or F.is_exporting() or is_compiling() or x.dim() < 3:
        return None
    if x.device.type == "cpu" and x.shape[0] > FEW_SAMPLES:
        return None
    inner = module._modules
    bn1, bn2 = inner["bn1"], inner["bn2"]
    first, second = _values(inner["fc1"], bn1), _values(inner["fc2"], bn2)
    if first is None or second is None or any(_GLOBAL_HOOKS):
        return None
    batch_statistics, momentum, eps = False, 0.0, 0.0
    if isinstance(bn1, _BatchNorm) and isinstance(bn2, _BatchNorm):
        if (bn1.training, bn1.momentum, bn1.eps) != (bn2.training, bn2.momentum, bn2.eps):
            return None
        batch_statistics = bn1.training and (x.shape[0] > 1 or has_batch_statistics(bn1, x.shape[:2]))
        assert bn1.momentum is not None
        momentum, eps = bn1.momentum, bn1.eps
    elif first[2] is not None or second[2] is not None:
        return None
    p1, p2 = module.p1, module.p2
    generator = Generator._make((*first, *second, batch_statistics, momentum, eps, module.beta_scale))
    if {t.dtype for t in (p1, p2, *generator.learned())} != {torch.promote_types(x.dtype, torch.float32)}:
        return None
    return cpu.meta_acon_c(x, p1, p2, generator, channel_dim, inplace)


def _values(linear: nn.Module | None, norm: nn.Module | None) -> tuple[Tensor | None, ...] | None:
    """The tensors of a layer of the generator, in the order of :class:`Generator`; None where it must be called.

    They are read from the modules' dicts, because ``nn.Module.__getattr__`` for each would cost as much as a launch.
    """
    # An adapter around a layer, or a layer of another class, computes something else from the same weight.
    if not isinstance(linear, InnerConv2d) or type(linear).forward is not InnerConv2d.forward or norm is None:
        return None
    if _is_changed(linear) or _is_changed(norm):
        return None
    weight, bias = linear._parameters.get("weight"), linear._parameters.get("bias")
    if weight is None or bias is None:  # they are computed, as by torch.nn.utils.parametrize
        return None
    if type(norm) is nn.Identity:
        return weight, bias, None, None, None, None, None
    # A SyncBatchNorm has another forward.
    if not isinstance(norm, _BatchNorm) or type(norm).forward is not _BatchNorm.forward or norm.momentum is None:
        return None
    parameters, statistics = norm._parameters, norm._buffers
    values = (
        *(parameters.get("weight"), parameters.get("bias")),
        *(statistics.get("running_mean"), statistics.get("running_var"), statistics.get("num_batches_tracked")),
    )
    return None if any(value is None for value in values) or not norm.track_running_stats else (weight, bias, *values)


def _is_changed(module: nn.Module) -> bool:
    """Whether a call does more than the ``forward`` of the class."""
    state = module.__dict__
    hooks = state["_forward_hooks"] or state["_forward_pre_hooks"]
    return bool(hooks or state["_backward_hooks"] or state["_backward_pre_hooks"] or "forward" in state)


def _normalize_pooled(norm: nn.Module, pooled: Tensor) -> Tensor:
    if isinstance(norm, nn.Identity):
        return pooled
    tensors = (getattr(norm, name, None) for name in ("weight", "running_mean"))
    dtype = next((t.dtype for t in tensors if t is not None), pooled.dtype)
    maps = pooled
    limit = torch.finfo(dtype).max
    if torch.finfo(dtype).bits < torch.finfo(pooled.dtype).bits:
        maps = pooled.clamp(-limit, limit).to(dtype)
    return normalize(norm, maps[:, :, None, None])[:, :, 0, 0].to(pooled.dtype)
