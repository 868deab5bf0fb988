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

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from . import requirements
from .acon_types import acon_type_of, acons_of, foreign_acons, names_below, with_our_names
from .reading import CheckpointError
from .report import LoadReport, inits_of, summary

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
        CheckpointError: something does not fit. The model may then have part of the weights.
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
    report, errors = _judge(model, renamed, allow, strict, *_load(model, renamed, metadata))
    report.folded = folded
    if errors:
        raise CheckpointError(
            f"the checkpoint does not fit {type(model).__name__}: {'; '.join(errors)}. What is meant to differ, name: "
            "default_hooks = dict(load_check=dict(type='LoadCheckHook', allow=[...]))"
        )
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


def _load(model: nn.Module, state_dict: dict, metadata: Mapping) -> tuple[list[str], list[str], list[str]]:
    """Load what fits; missing and unexpected names, and PyTorch's messages."""
    missing, unexpected, messages = [], [], []

    def load(module: nn.Module, own: dict, prefix: str) -> None:
        if is_model_wrapper(module):
            module = module.module
        local_metadata = metadata.get(prefix[:-1], {})
        module._load_from_state_dict(own, prefix, local_metadata, True, missing, unexpected, messages)
        for name, child in module._modules.items():  # not named_children(), which names what is shared once
            if child is None:
                continue
            start = f"{prefix}{name}."
            load(child, OrderedDict((key, value) for key, value in own.items() if key.startswith(start)), start)
        for hook in module._load_state_dict_post_hooks.values():
            hook(module, nn.modules.module._IncompatibleKeys(missing, unexpected))

    load(model, OrderedDict(state_dict), "")
    return [key for key in missing if "num_batches_tracked" not in key], unexpected, messages


def _judge(
    model: nn.Module,
    state_dict: dict,
    allow: tuple[str, ...],
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    messages: list[str],
) -> tuple[LoadReport, list[str]]:
    acons = acons_of(model)
    expected = [key for key in model.state_dict() if not key.endswith((".num_batches_tracked", "_extra_state"))]
    wrong_size = {
        found[1]: message for message in messages if (found := re.match(r"size mismatch for (\S+?):", message))
    }
    absent = {*missing, *wrong_size}
    report = LoadReport(type(model).__name__, [key for key in expected if key not in absent])
    errors = [message for message in messages if message not in wrong_size.values()]  # said by modules themselves
    other_kinds: dict[tuple[str, str], list[str]] = {}

    def allowed(key: str) -> bool:
        return any(fnmatchcase(key, entry) or key.startswith(f"{entry}.") for entry in allow)

    for place, acon in acons.items():
        own = {key for key in expected if key.startswith(f"{place}." if place else "")}
        there, here = names_below(state_dict, place), names_below(expected, place)
        if own.isdisjoint(absent):
            continue
        if own <= absent and not there and not own & wrong_size.keys():
            report.started += sorted(own)
        elif acon_type_of(there) != acon_type_of(here):
            if not all(allowed(key) for key in own):
                other_kinds.setdefault((acon_type_of(there) or "no ACON", _kind(acon)), []).append(place)
        elif own & set(missing) and not all(allowed(key) for key in own & set(missing)):
            lacks = ", ".join(sorted(names_below(own & set(missing), place)))
            hint = " (yolov5's has no norms: norm_cfg=None)" if "bn1.weight" in lacks else ""
            errors.append(f"the checkpoint has only a part of {place}, without {lacks}{hint}")
    errors += [
        f"{summary(places) if len(places) > 1 else places[0]} is {there} in the checkpoint and {here} in the model"
        for (there, here), places in other_kinds.items()
    ]
    acon_keys = {key for place in acons for key in expected if key.startswith(f"{place}." if place else "")}
    if len(report.started) == len(report.loaded) == 0 or not set(report.loaded) - {*report.started}:
        return report, [_nothing_fits(model, state_dict)]

    report.inits = inits_of(model, dict.fromkeys(_place_of(key, acons) for key in report.started))
    report.missing = [key for key in missing if key not in acon_keys]
    errors += _missing_parts(report.missing, state_dict, model, allowed, strict)
    for key, message in wrong_size.items():
        if allowed(key):
            report.wrong_size.append(key)
        else:
            errors.append(" ".join(message.replace("torch.Size", "").split()).rstrip("."))
    report.dropped = [key for key in unexpected if _may_drop(key, state_dict, model) or allowed(key)]
    errors += _unexpected([key for key in unexpected if key not in report.dropped], acons)
    return report, errors


def _kind(acon: nn.Module) -> str:
    return acon_type_of(acon.state_dict()) or type(acon).__name__


def _place_of(key: str, acons: Mapping[str, nn.Module]) -> str:
    parts = key.split(".")
    return next(place for n in range(len(parts), -1, -1) if (place := ".".join(parts[:n])) in acons)


def _may_drop(key: str, state_dict: Mapping, model: nn.Module) -> bool:
    """Whether a name that the model does not know changes nothing: see the rules above."""
    if key.endswith("num_batches_tracked"):
        return True
    known_part = key.partition(".")[0] in {*model._modules, *model._parameters}
    if not known_part and not isinstance(model, BaseModel):
        return True
    value = state_dict[key]
    return key.endswith(".bias") and isinstance(value, Tensor) and not value.any()


def _unexpected(keys: list[str], acons: Mapping) -> list[str]:
    if not keys:
        return []
    if any(re.search(r"\.acon[12]?\.p1$", key) for key in keys):
        return ["it is the authors' own file: convert it by tools/model_converters/convert_checkpoint.py official"]
    foreign = {place: kind for place, kind in foreign_acons(keys).items() if place not in acons}
    rest = [key for key in keys if not any(key.startswith(f"{place}.") for place in (*foreign, *acons))]
    errors = []
    if foreign:
        kinds = " and ".join(sorted(set(foreign.values())))
        errors.append(
            f"it activates with {kinds} at {summary(foreign)}, where the model has no ACON: see act_cfg and act_sites"
        )
    if rest:
        errors.append(f"{len(rest)} of its tensors are not in the model: {summary(rest)}")
    return errors


def _missing_parts(missing: list[str], state_dict: Mapping, model: nn.Module, allowed, strict: bool) -> list[str]:
    """Parts, two levels deep, that have weights (not only norms) and find none."""
    if strict:
        lacking = [key for key in missing if not allowed(key)]
        return [f"it lacks {summary(lacking)}"] if lacking else []
    own, errors = model.state_dict(), []
    for part in dict.fromkeys(".".join(key.split(".")[:depth]) for depth in (1, 2) for key in missing):
        keys = [key for key in missing if key.startswith(f"{part}.")]
        there = any(key.startswith(f"{part}.") for key in state_dict)
        covered = any(part.startswith(f"{error}.") for error in errors)
        if not there and not covered and any(own[k].dim() > 1 for k in keys) and not all(allowed(k) for k in keys):
            errors.append(part)
    return [f"it has nothing for {', '.join(errors)}"] if errors else []


def _nothing_fits(model: nn.Module, state_dict: Mapping) -> str:
    first = ", ".join(list(state_dict)[:3]) or "nothing"
    own = set(model.state_dict())
    for part in dict.fromkeys(key.partition(".")[0] for key in state_dict):
        if names_below(state_dict, part) & own:
            return f"its names begin with {part}: init_cfg=dict(type='Pretrained', prefix='{part}.', checkpoint=...)"
    for part, _ in model.named_children():
        if names_below(own, part) & set(state_dict):
            return f"it is of a {part} alone: model.{part}.init_cfg=dict(type='Pretrained', checkpoint=...)"
    if any(re.search(r"\.acon[12]?\.p1$", key) for key in state_dict):
        return "it is the authors' own file: convert it by tools/model_converters/convert_checkpoint.py official"
    return f"nothing in it fits; it has {first}, ..."
