"""Loading a state dict into a model with ACONs, where a difference between the two is an error.

mmengine loads what fits and only logs the rest. A detector may then train from half a backbone. These rules apply to
models with ACONs, and to checkpoints with requirements (:mod:`acon_mm.checkpoints.requirements`):

- A tensor of another shape is an error.
- A tensor that the model does not have is an error if it lies in a part that the model has (``layer3.9`` for a
  ResNet-50). If the model does not have the part, a whole model (``load_from``, resume, test) raises an error, and a
  backbone drops the tensor: files of backbones may hold a classifier (``fc``).
- A bias of zeros changes nothing. It is dropped where the model has no such bias.
- A first convolution's bias that the model does not have, as in Caffe's ResNet-50, is folded into the norm after it.
- A part, at most two levels deep (``layer4``, ``backbone.layer4``), of whose weights the checkpoint has none is an
  error.
- Other tensors that the checkpoint does not have keep their initial values, and the log says so.
- An ACON takes all of its parameters from the checkpoint or none. Both ACONs must be of the same type.

:mod:`acon_mm.checkpoints.comparison` finds the differences, :mod:`acon_mm.checkpoints.rules` judges them.
"""

from collections.abc import Iterable, Mapping
from typing import cast

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from . import requirements, rules
from .acon_types import rename_yolov5_keys
from .comparison import compare, load
from .reading import CheckpointError, is_real, listed, not_finite
from .report import LoadReport

#: the attribute of a module in which `LoadCheckHook` stores the names and patterns that may differ
ALLOWED = "_acon_allowed_mismatch"


def load_state_dict(
    model: nn.Module, state_dict: Mapping[str, Tensor], allow: Iterable[str] = (), strict: bool = False
) -> LoadReport:
    """Load a state dict by the rules above: all that fits, or nothing.

    Args:
        model: any module. If it is wrapped (DDP, test-time augmentation), the wrapped module is loaded.
        state_dict: names and tensors. Its metadata may hold requirements, which are checked first.
        allow: what may differ: names of tensors or modules (``bbox_head.retina_cls``), or patterns
            (``*.conv_offset.*``).
        strict: whether every tensor that the checkpoint does not have is an error, except those of ACONs.

    Returns:
        what came from the checkpoint and what did not.

    Raises:
        CheckpointError: something does not fit. The model is unchanged: parameters, buffers and extra states.
        RuntimeError: a module reports an error only in the load itself, and not in the comparison before it. No module
            of PyTorch, OpenMMLab or this package does this. The model is loaded in part.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = cast(nn.Module, model.module)
    required = requirements.requirements_in(state_dict)
    unmet = [problem for place, needs in required.items() for problem in requirements.unmet(needs, model, place)]
    if unmet:
        raise CheckpointError(f"the checkpoint does not fit {type(model).__name__}: {'; '.join(unmet)}")

    if names := not_finite(state_dict):
        raise CheckpointError(f"the weights in the checkpoint are not finite: {names}")

    metadata = getattr(state_dict, "_metadata", None) or {}
    entries = rename_yolov5_keys(state_dict, model)
    check_numbers(model, entries)
    folded = _fold_stem_bias(entries, model)
    comparison = compare(model, entries, metadata)
    allow = (*allow, *model.__dict__.get(ALLOWED, ()))
    case = rules.Case(model, entries, comparison, allow, strict)
    if errors := rules.errors_in(case):
        raise CheckpointError(
            f"the checkpoint does not fit {type(model).__name__}: {'; '.join(errors)}. If a difference is intended, "
            "list it: default_hooks = dict(load_check=dict(type='LoadCheckHook', allow=[...]))"
        )
    report = rules.report_of(case, folded)
    load(model, {key: value for key, value in entries.items() if key not in comparison.wrong_shape}, metadata)
    requirements.keep(model, required)
    return report


def check_numbers(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Check that all are dense tensors of real numbers where the model has these: PyTorch would convert most others.

    Raises:
        CheckpointError: some are not. The error names them.
    """
    own = {
        name.removeprefix("module.")
        for name, value in model.state_dict().items()
        if is_real(value) and not name.endswith("_extra_state")  # which may be anything
    }
    if wrong := [name for name, value in state_dict.items() if name in own and not is_real(value)]:
        raise CheckpointError(f"the weights in the checkpoint are not dense tensors of real numbers: {listed(wrong)}")


def _fold_stem_bias(state_dict: dict, model: nn.Module) -> list[str]:
    """Subtract ``conv1.bias`` from the mean of the norm after it, where the model has no such bias. This is exact.

    Caffe's ResNet-50 has this bias, and so do the weights that Detectron made from it (``detectron2/resnet50_caffe``).
    """
    own = dict(model.named_parameters())
    bias, mean = state_dict.get("conv1.bias"), state_dict.get("bn1.running_mean")
    if "conv1.weight" not in own or "conv1.bias" in own or bias is None or mean is None:
        return []
    if bias.shape != mean.shape or not bias.any():
        return []
    state_dict["bn1.running_mean"] = mean - bias
    del state_dict["conv1.bias"]
    return ["conv1.bias"]
