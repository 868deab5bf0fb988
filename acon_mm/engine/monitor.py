"""A hook that shows, during training, what the activations learn."""

from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ..checkpoints.comparison import unwrapped
from ..compat import register_post_accumulate_grad_hook, strict_zip
from ..layers import Acon
from ..learned import Layer, RecordedBetas, layers_of
from ..registering import register

_QUANTILES = (0.05, 0.5, 0.95)


@register(HOOKS)
class AconMonitorHook(Hook):
    """Shows what the ACONs learn, through mm's visualizer: ``monitor=dict(type='AconMonitorHook')`` in default_hooks.

    For each layer, these go to every backend of the visualizer (TensorBoard, W&B, MLflow, local files), under
    ``acon/LAYER/``:

    - ``p1_q05``, ``p1_q50``, ``p1_q95``, and so p2 and beta: quantiles over the channels. Meta-ACON's beta is that of
      the current batch, with the running statistics of its norms;
    - ``linear``, ``relu``, ``other``: the share of channels that are near linear, like ReLU, or neither
      (:meth:`acon_mm.learned.Layer.kinds`);
    - ``moved``: the root mean square of the change of p1, p2 and beta since the start;
    - ``grad_norm``: the norm of the gradient of all parameters of the layer, before clipping.

    Args:
        interval: every how many iterations.
        figure_interval: every how many iterations a figure of all curves is drawn, which takes about a second. 0: only
            at the end of training.

    Raises:
        ValueError: an interval is no int, is negative, or ``interval`` is 0.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, interval: int = 100, figure_interval: int = 0):
        for name, value, least in (("interval", interval, 1), ("figure_interval", figure_interval, 0)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an int of {least} or more, got {value!r}")
        self.interval, self.figure_interval = interval, figure_interval
        self.start: dict[str, Layer] = {}
        self.betas: RecordedBetas | None = None
        self.squares: dict[str, Tensor] = {}
        self.handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        self.start = {layer.name: layer for layer in layers_of(unwrapped(runner.model))}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if not self._is_due(runner, self.interval) and not self._is_due(runner, self.figure_interval):
            return
        self.betas = RecordedBetas(unwrapped(runner.model))
        self.squares = {}
        for name, module in unwrapped(runner.model).named_modules():
            if isinstance(module, Acon):
                for parameter in module.parameters():
                    # The optimizer's wrapper clears the gradients before a hook of the iteration could see them.
                    if parameter.requires_grad:
                        self.handles.append(register_post_accumulate_grad_hook(parameter, partial(self._add, name)))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.betas is None:
            return
        self.betas.stop()
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        layers = layers_of(unwrapped(runner.model), self.betas.means())
        self.betas = None
        step = runner.iter + 1
        if self._is_due(runner, self.interval):
            scale = getattr(getattr(runner.optim_wrapper, "loss_scaler", None), "get_scale", lambda: 1.0)()
            values = {key: value for layer in layers for key, value in self._values(layer, scale).items()}
            runner.visualizer.add_scalars(values, step=step)
        if self._is_due(runner, self.figure_interval):
            self._draw(runner, layers, step)

    def after_train(self, runner: Runner) -> None:
        if layers := layers_of(unwrapped(runner.model)):
            self._draw(runner, layers, runner.iter)

    def _is_due(self, runner: Runner, interval: int) -> bool:
        return interval > 0 and (runner.iter + 1) % interval == 0

    def _add(self, name: str, parameter: Tensor) -> None:
        if parameter.grad is not None:
            square = parameter.grad.detach().float().square().sum()
            self.squares[name] = self.squares[name] + square if name in self.squares else square

    def _values(self, layer: Layer, scale: float) -> dict[str, float]:
        values: dict[str, float] = dict(layer.shares())
        changes = []
        for name in ("p1", "p2", "beta"):
            now, then = getattr(layer, name), getattr(self.start[layer.name], name)
            if now is not None:
                for quantile, value in strict_zip(_QUANTILES, np.quantile(now.numpy(), _QUANTILES)):
                    values[f"{name}_q{round(100 * quantile):02}"] = float(value)
                if then is not None:
                    changes.append((now - then).square().mean())
        values["moved"] = torch.stack(changes).mean().sqrt().item()
        if layer.name in self.squares:
            values["grad_norm"] = self.squares[layer.name].sqrt().item() / scale
        return {f"acon/{layer.name}/{name}": value for name, value in values.items()}

    def _draw(self, runner: Runner, layers: list[Layer], step: int) -> None:
        # matplotlib takes a while to import.
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        from ..learned import figures

        canvas = FigureCanvasAgg(figures.learned(layers, list(self.start.values()))["curves"])
        canvas.draw()
        runner.visualizer.add_image("acon_curves", np.asarray(canvas.buffer_rgba())[..., :3], step=step)
