"""Switch the activations of a built model in place."""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from mmengine.registry import MODELS, Registry
from torch import nn

from ..layers import Acon
from .hosts import Host, drop_shared, patch_class, patched_class
from .sites import ACTIVATIONS, ActSites, Site, find_sites, select, submodule


@dataclass
class Report:
    """What a conversion did.

    Attributes:
        converted: names of the sites that have the new activation.
        kept: names of the activations that stay, each with the reason.
    """

    converted: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


class NoActivationsError(ValueError):
    """A module has no activation that ``act_cfg`` could mean."""


def convert_activations(model: nn.Module, act_cfg: dict, act_sites: ActSites = None) -> Report:
    """Replace activations of ``model`` in place; parameters and keys of everything else stay as they are.

    Args:
        model: a backbone, neck, head or whole model of mmdet or mmseg, or anything made of ConvModules and Sequentials.
        act_cfg: config of the new activation: any in the registry. An ACON needs no ``num_channels``.
        act_sites: ``'paper'`` (the 3x3 convolution of a Bottleneck, both of a BasicBlock), ``'all'``, or a list of site
            names; None: the paper's in backbones that have them, all elsewhere.

    Returns:
        the sites that were switched, and those that were not, with reasons.

    Raises:
        NoActivationsError: ``model`` has no activations, or only such that stay.
        ValueError: ``act_cfg`` or ``act_sites`` is not understood; a chosen site cannot be switched. The model is then
            unchanged.
    """
    where = type(model).__name__
    check_act_cfg(act_cfg, where)
    sites, kept = find_sites(model)
    return _convert(model, sites, kept, act_cfg, act_sites)


def complete_activations(model: nn.Module, act_cfg: dict, act_sites: ActSites = None) -> Report:
    """As :func:`convert_activations`, while a config is built: an ACON that is there already was asked for, and stays.

    A part of the model may have an ``act_cfg`` of its own, or the class takes ``act_cfg``, but ignores it in places.
    Nothing is left to do then, or the rest.
    """
    sites, kept = find_sites(model)
    there = [submodule(model, site.path) for site in sites]
    uses = Counter(map(id, there))  # one that a class shares between sites has the channels of one of them at best
    present = [
        site
        for site, module in zip(sites, there, strict=True)
        if isinstance(module, Acon) and uses[id(module)] == 1 and (module.num_channels or site.channels is None)
    ]
    for module, host in _hosts_of(model, present):
        patch_class(module, host)  # upstream's method may still call a functional one as well
    if len(present) == len(sites) and any(isinstance(module, Acon) for module in model.modules()):
        return Report([site.name for site in present], kept)
    return _convert(model, sites, kept, act_cfg, act_sites, done=present)


def _convert(
    model: nn.Module,
    sites: list[Site],
    kept: dict[str, str],
    act_cfg: dict,
    act_sites: ActSites,
    done: Sequence[Site] = (),
) -> Report:
    where = type(model).__name__
    if not sites:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(kept.items())[:3])
        raise NoActivationsError(
            f"act_cfg on {where}, which has no activations"
            + (f" but such as stay ({reasons}{', ...' if len(kept) > 3 else ''})" if kept else "")
            + ": leave it out there"
        )
    chosen = [site for site in select(sites, act_sites, where) if site not in done]
    make = _maker(act_cfg)
    # Whatever may raise comes before the first change.
    activations = [_build(make, site, where) for site in chosen]
    hosts = _hosts_of(model, chosen)
    for module, host in hosts:
        patched_class(module, host)
    for module, host in hosts:
        patch_class(module, host)
    for site, activation in zip(chosen, activations, strict=True):
        _put(model, site.path, activation)
    for module, host in hosts:
        drop_shared(module, host)
    for module in model.modules():
        if hasattr(type(module), "_freeze_stages"):  # mm backbones; what is new in a frozen stage is frozen as well
            module._freeze_stages()
    switched = {site.name for site in (*done, *chosen)}
    others = {site.name: "not among act_sites" for site in sites if site.name not in switched}
    return Report([site.name for site in sites if site.name in switched], others | kept)


def _hosts_of(model: nn.Module, sites: Sequence[Site]) -> list[tuple[nn.Module, type[Host]]]:
    """The modules that call the activations at these sites and have a table entry, with that entry."""
    found = dict.fromkeys((site.owner, site.host) for site in sites if site.host is not None)
    return [(model.get_submodule(path), host) for path, host in found]


def check_act_cfg(act_cfg: dict, where: str, registry: Registry = MODELS) -> None:
    """Raise a ValueError unless ``act_cfg`` is a dict whose type is a registered module."""
    if not isinstance(act_cfg, dict) or "type" not in act_cfg:
        raise ValueError(f"act_cfg of {where} must be a dict with a 'type', got {act_cfg!r}")
    kind = act_cfg["type"]
    if inspect.isclass(kind):
        return
    with registry.switch_scope_and_registry(act_cfg.get("_scope_")) as scoped:  # mmseg registers one of its own
        if isinstance(kind, str) and scoped.get(kind) is not None:
            return
    known = [name for name, cls in MODELS.module_dict.items() if inspect.isclass(cls) and issubclass(cls, ACTIVATIONS)]
    close = get_close_matches(str(kind), known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "registered activations are " + ", ".join(known)
    raise ValueError(f"act_cfg of {where}: no activation is registered as {kind!r}; {hint}")


def _maker(act_cfg: dict) -> Callable[[Site], nn.Module]:
    """What makes the activation of a site, its channels still open: the class, looked up once for all sites."""
    options = {key: value for key, value in act_cfg.items() if key not in ("type", "_scope_")}
    kind = act_cfg["type"]
    if not inspect.isclass(kind):
        with MODELS.switch_scope_and_registry(act_cfg.get("_scope_")) as scoped:
            kind = scoped.get(kind)
    takes_inplace = "inplace" in inspect.signature(kind).parameters

    def make(site: Site) -> nn.Module:
        inplace = {"inplace": getattr(site.current, "inplace", False)} if takes_inplace else {}
        return kind(**inplace | options)

    return make


def _build(make: Callable[[Site], nn.Module], site: Site, where: str) -> nn.Module:
    activation = make(site)
    if isinstance(activation, Acon):
        activation.location = f"{where}.{site.path}"
        if site.channels is not None:
            activation.set_channels(*site.channels)
        elif activation.num_channels is None:
            raise ValueError(
                f"the activation {site.name} of {where} needs its number of channels, and no layer before it tells it: "
                "add num_channels to act_cfg, or leave the site out by act_sites=[...]"
            )
    parameters = list(site.source.parameters())
    if parameters:
        place = {"device": parameters[0].device, "dtype": parameters[0].dtype}
        if any(p.device != place["device"] or p.dtype != place["dtype"] for p in activation.parameters()):
            activation.to(**place)  # which takes a while, and is rarely needed
        if not any(p.requires_grad for p in parameters):
            activation.requires_grad_(False)
    return activation if site.source.training else activation.eval()


def _put(model: nn.Module, path: str, activation: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, activation)
