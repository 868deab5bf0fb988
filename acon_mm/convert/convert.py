"""The conversion of a built model: its activations are replaced in place."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from mmengine.registry import MODELS, Registry
from torch import nn
from torch.nn.parameter import is_lazy

from ..compat import strict_zip
from ..layers import Acon, AconFReLU, MetaAconC
from ..ops.memory import recompute_after_heads
from .activations import ACTIVATIONS
from .channels import Channels
from .hosts import NEVER_CALLED, patch_class, patched_class, remove_shared
from .own_sites import OwnSites
from .running import Probe, run_probes
from .sites import ActSites, Site, find_sites, select, submodule
from .source import UnreadableError
from .wrappers import refuse_wrappers


@dataclass
class Report:
    """What a conversion did.

    Attributes:
        converted: names of the sites that have the new activation.
        kept: names of the activations that were kept, each with the reason.
    """

    converted: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


class NoActivationsError(ValueError):
    """A module has no activation that ``act_cfg`` could replace."""


def convert_activations(model: nn.Module, act_cfg: dict, act_sites: ActSites = None) -> Report:
    """Replace activations of ``model`` in place. Parameters and state dict keys of everything else are kept.

    Args:
        model: a backbone, neck, head or whole model of mmdet or mmseg, or anything made of ConvModules and Sequentials.
        act_cfg: the config of the new activation, any that is registered. An ACON needs no ``num_channels``.
        act_sites: ``'paper'`` (after the 3x3 convolution of a Bottleneck, at both sites of a BasicBlock), ``'all'``, or
            a list of site names. None: the paper's sites in backbones that have them, all sites elsewhere.

    Returns:
        the names of the sites that were converted, and of those that were not, with the reasons.

    Raises:
        NoActivationsError: ``model`` has no activations, or none that can be replaced.
        ValueError: ``act_cfg`` or ``act_sites`` is wrong, or a chosen site cannot be converted.
        TypeError: the new activation does not take an option in ``act_cfg``.

    After an error the model is unchanged.
    """
    refuse_wrappers(model)
    check_act_cfg(act_cfg, type(model).__name__)
    sites, kept = find_sites(model)
    return _convert(model, sites, kept, act_cfg, act_sites)


def convert_remaining_activations(model: nn.Module, act_cfg: dict, act_sites: ActSites = None) -> Report:
    """As :func:`convert_activations`, but an ACON that is there already is kept and counts as converted.

    A config may give a part of a model an ``act_cfg`` of its own. Or the class of the model takes ``act_cfg``, but does
    not use it everywhere. Then only the remaining activations have to be converted, or none.
    """
    sites, kept = find_sites(model)
    for name, reason in kept.items():
        if reason == NEVER_CALLED and isinstance(unused := submodule(model, name), Acon):
            unused.requires_grad_(False)  # DistributedDataParallel would wait for its gradients
    modules = [submodule(model, site.path) for site in sites]
    uses = Counter(map(id, modules))  # an activation at several sites can have the channels of only one of them
    done = [
        site
        for site, module in strict_zip(sites, modules)
        if isinstance(module, Acon) and uses[id(module)] == 1 and module.num_channels is not None
    ]
    if len(done) == len(sites) and any(isinstance(module, Acon) for module in model.modules()):
        _Change(model, (), done).apply(())
        return Report([site.name for site in done], kept)
    return _convert(model, sites, kept, act_cfg, act_sites, done)


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
        reasons = [f"{name}: {reason}" for name, reason in list(kept.items())[:3]] + ["..."] * (len(kept) > 3)
        others = f" (it keeps {'; '.join(reasons)})" if kept else ""
        raise NoActivationsError(
            f"{where} has no activation that act_cfg could replace{others}: remove act_cfg from its config"
        )
    chosen = [site for site in select(sites, act_sites, where) if site not in done]
    # Everything that may raise comes before the first change.
    new_activation = _ActivationFactory(act_cfg)
    if new_activation.needs_channels:
        chosen = _with_channels(model, chosen)
    try:
        change = _Change(model, chosen, done)
    except UnreadableError as error:
        raise ValueError(
            f"{where} cannot be converted: {error}. Choose other sites by act_sites=[...], or leave act_cfg out here"
        ) from error
    change.apply([_build(new_activation, site, where) for site in chosen])
    complete_layouts(model)
    recompute_after_heads(model)
    converted = {site.name for site in (*done, *chosen)}
    not_chosen = {site.name: "not among act_sites" for site in sites if site.name not in converted}
    return Report([site.name for site in sites if site.name in converted], not_chosen | kept)


#: a module's hooks on its calls
_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks"),
    *(["_forward_hooks_always_called"] if hasattr(nn.Module(), "_forward_hooks_always_called") else []),  # since 2.1
)


class _Change:
    """How a model changes: its classes, and the activations at some of its sites.

    Args:
        model: the model.
        chosen: the sites that get another activation.
        done: sites that have it already. Upstream's methods may not call it yet.

    Raises:
        ValueError: the source of a method cannot be changed.
        TypeError: an entry does not fit its class, see :func:`~acon_mm.convert.hosts.patched_class`.
    """

    def __init__(self, model: nn.Module, chosen: Sequence[Site], done: Sequence[Site] = ()) -> None:
        self.model = model
        self.chosen = chosen
        hosts = dict.fromkeys((site.caller, site.host) for site in (*done, *chosen) if site.host is not None)
        self._hosts = [(model.get_submodule(path), host) for path, host in hosts]
        self._own: dict[OwnSites, set[str]] = {}
        for site in (*done, *chosen):
            if site.own is not None:
                self._own.setdefault(site.own, set()).add(site.path_in_caller)
        self._classes = {own: own.new_class(paths) for own, paths in self._own.items()}
        for module, host in self._hosts:
            patched_class(module, host)

    def apply(self, activations: Sequence[nn.Module]) -> None:
        """Change the model. Nothing in here can fail."""
        for module, host in self._hosts:
            patch_class(module, host)
        for own, cls in self._classes.items():
            own.apply(cls, self._own[own])
        for site, activation in strict_zip(self.chosen, activations):
            parent, _, name = site.path.rpartition(".")
            holder = self.model.get_submodule(parent)
            present = holder.get_submodule(name)
            for hooks in _HOOKS:  # for example those that take features out of a network
                getattr(activation, hooks).update(getattr(present, hooks))
            setattr(holder, name, activation)
        for module, host in self._hosts:
            remove_shared(module, host)
        for own, paths in self._own.items():
            own.remove_unused(paths)


#: packages whose transformers have the batch first
_BATCH_FIRST = ("mmdet", "mmseg", "mmpretrain")
#: packages of layers, which serve either layout
_EITHER = ("torch", "mmcv", "mmengine")


def complete_layouts(model: nn.Module) -> None:
    """Set ``batch_first`` of ACONs that have channels last in mmdet, mmseg and mmpretrain: tokens are ``(N, L, C)``.

    An ACON that has a ``batch_first`` keeps it, and so does one in a module of somebody else.
    """
    _complete_layouts(model, False)


def _complete_layouts(module: nn.Module, batch_first: bool) -> None:
    package = type(module).__module__.partition(".")[0]
    if package not in _EITHER:
        batch_first = package in _BATCH_FIRST
    for child in module.children():
        if not isinstance(child, Acon):
            _complete_layouts(child, batch_first)
        elif batch_first and child.batch_first is None and child.channel_dim == -1:
            child.batch_first = True


def _with_channels(model: nn.Module, sites: Sequence[Site]) -> list[Site]:
    """The sites with their channels. Where neither layers nor sources show them, a copy of the model is run once."""
    unknown = {site.name for site in sites if site.channels is None}
    if not unknown:
        return list(sites)
    try:
        twin = copy.deepcopy(model)
        twins = [site for site in find_sites(twin)[0] if site.name in unknown or not _can_run(site.current)]
        probes = {site.path: Probe(site.current) for site in twins}
        _Change(twin, twins).apply(list(probes.values()))
    except Exception as error:
        problem = f"a copy cannot be run ({error})"
        if any(is_lazy(each) for each in model.parameters()):
            problem = "there are lazy layers, which have no weights yet: run the model once before it is converted"
        return [replace(site, problem=problem) if site.name in unknown else site for site in sites]
    failed = run_probes(twin, probes)
    found = []
    for site in sites:
        if site.name in unknown:
            met, calls = probes[site.path].channels(), probes[site.path].calls
            if site.unseen is not None and calls > 1:
                site = replace(
                    site, problem=f"it is called {calls} times, and only a run tells what {site.unseen} calls"
                )
            elif isinstance(met, Channels):
                site = replace(site, channels=met)
            else:
                site = replace(site, problem=f"it {met}" if probes[site.path].met or not failed else failed)
        found.append(site)
    return found


def _can_run(activation: nn.Module | None) -> bool:
    return not isinstance(activation, Acon) or activation.num_channels is not None


def complete_channels(model: nn.Module) -> dict[str, str]:
    """Give the ACONs that a class built without channels theirs, where its source or a run shows them.

    Returns:
        the names of the ACONs that are still without channels, each with the reason.
    """
    sites, kept = find_sites(model)
    waiting = [site for site in sites if isinstance(site.current, Acon) and site.current.num_channels is None]
    for site in _with_channels(model, waiting):
        if site.channels is not None and submodule(model, site.path) is site.current:
            site.current.set_channels(*site.channels)  # type: ignore[union-attr, operator]
    reasons = {site.name: site.problem or "it serves several places" for site in waiting} | kept
    missing = [
        name for name, module in model.named_modules() if isinstance(module, Acon) and module.num_channels is None
    ]
    return {name: reasons.get(name, "no method that was read calls it") for name in missing}


def check_act_cfg(act_cfg: dict, where: str, registry: Registry = MODELS) -> None:
    """Raise a ValueError unless ``act_cfg`` is a dict whose type is a registered module."""
    if not isinstance(act_cfg, dict) or "type" not in act_cfg:
        raise ValueError(f"act_cfg of {where} must be a dict with a 'type', got {act_cfg!r}")
    name = act_cfg["type"]
    if inspect.isclass(name):
        _check_options(name, act_cfg, where)
        return
    with registry.switch_scope_and_registry(act_cfg.get("_scope_")) as scoped:  # mmseg registers one of its own
        if isinstance(name, str) and (cls := scoped.get(name)) is not None:
            _check_options(cls, act_cfg, where)
            return
    known = [key for key, cls in MODELS.module_dict.items() if inspect.isclass(cls) and issubclass(cls, ACTIVATIONS)]
    close = get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "registered activations are " + ", ".join(known)
    raise ValueError(f"act_cfg of {where}: no activation is registered as {name!r}; {hint}")


def _check_options(cls: type, act_cfg: dict, where: str) -> None:
    """Raise a TypeError for options of another activation: a config may inherit them from its base."""
    taken, of_acons = _options(cls), _options(AconFReLU) | _options(MetaAconC)
    wrong = [key for key in act_cfg if key not in taken and key not in ("type", "_scope_")]
    if wrong and inspect.isclass(cls) and (issubclass(cls, Acon) or of_acons.intersection(wrong)):
        raise TypeError(
            f"act_cfg of {where}: {cls.__name__} does not take {', '.join(wrong)}. If the config inherits this from "
            f"its base, add _delete_=True: act_cfg=dict(_delete_=True, type={cls.__name__!r}, ...)"
        )


def _options(cls: Callable) -> set[str]:
    """The arguments of a class; a class that passes on ``**kwargs`` takes those of its base, too."""
    names: set[str] = set()
    for base in inspect.getmro(cls) if inspect.isclass(cls) else (cls,):
        init = vars(base).get("__init__") if inspect.isclass(base) else base
        if init is None:
            continue
        parameters = inspect.signature(init).parameters.values()
        names.update(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names


class _ActivationFactory:
    """Builds the activation of a site, without its channels. It looks the class up only once."""

    def __init__(self, act_cfg: dict) -> None:
        self._options = {key: value for key, value in act_cfg.items() if key not in ("type", "_scope_")}
        cls = act_cfg["type"]
        if not inspect.isclass(cls):
            with MODELS.switch_scope_and_registry(act_cfg.get("_scope_")) as scoped:
                cls = scoped.get(cls)
        self._cls = cls
        self._takes_inplace = "inplace" in _options(cls)
        self.needs_channels = (
            inspect.isclass(cls) and issubclass(cls, Acon) and self._options.get("num_channels") is None
        )

    def __call__(self, site: Site) -> nn.Module:
        inplace = {"inplace": getattr(site.current, "inplace", False)} if self._takes_inplace else {}
        return self._cls(**inplace | self._options)


def _build(new_activation: _ActivationFactory, site: Site, where: str) -> nn.Module:
    """The activation of a site, with its channels, device, dtype and training mode; frozen if the layer before is."""
    activation = new_activation(site)
    if isinstance(activation, Acon):
        activation.location = f"{where}.{site.path}"
        if site.channels is not None:
            activation.set_channels(*site.channels)
        elif activation.num_channels is None:
            raise ValueError(
                f"the activation {site.name} of {where} needs its number of channels, and the layers before it do not "
                f"show it: {site.problem}. Add num_channels to act_cfg, or leave the site out by act_sites=[...]"
            )
    parameters = list(site.source.parameters())
    if parameters:
        device, dtype = parameters[0].device, parameters[0].dtype
        new = next(activation.parameters(), None)
        if new is not None and (new.device, new.dtype) != (device, dtype):
            activation.to(device=device, dtype=dtype)  # slow, and rarely needed
        if not any(p.requires_grad for p in parameters):
            activation.requires_grad_(False)
    return activation if site.source.training else activation.eval()
