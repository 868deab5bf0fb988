"""A hook that lists where a checkpoint may differ from the model."""

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..checkpoints.comparison import unwrapped
from ..checkpoints.loading import ALLOWED
from ..registering import register


@register(HOOKS)
class LoadCheckHook(Hook):
    """Lists where a checkpoint may differ from the model: ``load_check=dict(type='LoadCheckHook', allow=[...])``.

    Args:
        allow: names of tensors or modules, or patterns: ``'bbox_head.retina_cls'``, ``'*.conv_offset.*'``. They are
            names of the whole model. For what ``init_cfg`` loads into a part, the part's own names also count.

    Raises:
        TypeError: ``allow`` is not a list of names.
    """

    priority = "VERY_HIGH"  # before the copy for a moving average is made

    def __init__(self, allow: Sequence[str]):
        if not isinstance(allow, (list, tuple)) or not all(isinstance(entry, str) for entry in allow):
            raise TypeError(f"allow must be a list of names, got {allow!r}")
        self.allow = tuple(allow)

    def before_run(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        for name, part in model.named_modules():
            part.__dict__[ALLOWED] = tuple(entry.removeprefix(f"{name}.") for entry in self.allow)
