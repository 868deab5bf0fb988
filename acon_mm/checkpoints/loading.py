"""Loading a state dict into a model with ACONs: as mmengine does it, but what does not fit is an error.

mmengine loads what fits and logs the rest; a detector then trains from half a backbone. The rules here, for models with
ACONs and for checkpoints with requirements (:mod:`acon_mm.checkpoints.requirements`):

- Of another size, or unknown within a part that the model has (``layer3.9`` for a ResNet-50): an error.
- A part that the model has not: an error for a whole model (``load_from``, resume, test), dropped for a backbone, which
  is given a classifier's weights (``fc``). So is a bias of zeros, which adds nothing. The first convolution's bias in
  Caffe's ResNet-50 goes into the norm after it.
- A part, at most two levels deep (``layer4``, ``backbone.layer4``), of whose weights the checkpoint has none: an error.
- Other tensors that the checkpoint has not keep their initial values; this is logged.
- An ACON takes all of its parameters from the checkpoint or none, and from the same kind of ACON.
"""

from collections.abc import Iterable, Mapping

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from . import requirements, rules
from .acon_types import with_our_names
from .comparison import compare, load
from .reading import CheckpointError
from .report import LoadReport

#: where `LoadCheckHook` leaves the patterns that a module's load may not fit
ALLOWED = "_acon_allowed_mismatch"


def load_state_dict(
    model: nn.Module, state_dict: Mapping[str, Tensor], allow: Iterable[str] = (), strict: bool = False
) -> LoadReport:
    """Load a state dict by the rules above.

    Args:
        model: any module; a wrapper (DDP, test-time augmentation) is looked through.
        state_dict: names and tensors; requirements in its metadata are checked first.
        allow: what need not fit: names of tensors or modules (``bbox_head.retina_cls``), or patterns
            (``*.conv_offset.*``).
        strict: whether also to fail where the model has more than the checkpoint, except for ACON's own.

    Returns:
        what came from where.

    Raises:
        CheckpointError: something does not fit. The model is then as it was.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    allow = (*allow, *model.__dict__.get(ALLOWED, ()))
    found = requirements.requirements_in(state_dict)
    unmet = [problem for place, needs in found.items() for problem in requirements.problems(needs, model, place)]
    if unmet:
        raise CheckpointError(f"the checkpoint does not fit {type(model).__name__}: {'; '.join(unmet)}")

    metadata = getattr(state_dict, "_metadata", None) or {}
    renamed = with_our_names(state_dict, model)
    folded = _fold_stem_bias(renamed, model)
    comparison = compare(model, renamed, metadata)
    case = rules.Case(model, renamed, comparison, allow, strict)
    if errors := rules.errors_in(case):
        raise CheckpointError(
            f"the checkpoint does not fit {type(model).__name__}: {'; '.join(errors)}. If a difference is intended, "
            "list it: default_hooks = dict(load_check=dict(type='LoadCheckHook', allow=[...]))"
        )
    report = rules.report_of(case, folded)
    load(model, {key: value for key, value in renamed.items() if key not in comparison.wrong_shape}, metadata)
    requirements.keep(model, found)
    return report


def _fold_stem_bias(state_dict: dict, model: nn.Module) -> list[str]:
    """Subtract ``conv1.bias``, where the model has none, from the mean of the norm after it, which is exact.

    Caffe's ResNet-50 has it, and so have the weights that Detectron made of that (``detectron2/resnet50_caffe``).
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
