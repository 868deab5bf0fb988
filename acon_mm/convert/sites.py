"""The activation sites of a model: how they are found, and how ``act_sites`` chooses among them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache, partial
from inspect import unwrap
from types import FunctionType
from typing import Any, NamedTuple, Union

import torch
from mmcv.cnn import ConvModule
from torch import nn

from .activations import (
    ACTIVATION_FUNCTIONS,
    ACTIVATION_METHODS,
    ACTIVATIONS,
    GATE,
    GATES,
    compiled_activates,
    computed_inside,
    mentions_activation,
)
from .channels import Channels, channels_before, output_channels
from .held import owners_of_held
from .hosts import NEVER_CALLED, Host, host_of, inherited_hosts, inherited_sites
from .own_sites import OwnSites
from .reading import Reading, activating_functions, read

ActSites = Union[str, Sequence[str], None]

#: methods of OpenMMLab's heads that compute losses or boxes from features; those come from ``forward``
_NO_FEATURES = ("loss", "predict", "get_targets")
_OPENMMLAB = ("mmdet.", "mmseg.", "mmpretrain.", "mmengine.")


@dataclass(frozen=True)
class Site:
    """A place where a model calls an activation. All names are dotted and start from the model.

    Attributes:
        name: the name in ``act_sites`` and in messages.
        path: the name of the activation module.
        caller: the name of the module that calls it.
        host: the caller's table entry; None if it has none.
        source: the layer before. The new activation takes its device and dtype, and is frozen if the layer is.
        channels: the channels at the site; None if unknown.
        current: the present activation; None if it is a function that no module computes.
        own: the sites of the caller, if its methods were read; None if its table entry or class tells enough.
        paper: whether the ResNets of the paper have an ACON here.
        default: whether ``act_sites=None`` chooses the site.
        problem: why the site cannot be converted; None if it can.
        unseen: a place that may call the activation, which only a run tells; None if the callers are known.
    """

    name: str
    path: str
    caller: str
    host: type[Host] | None
    source: nn.Module
    channels: Channels | None
    current: nn.Module | None
    own: OwnSites | None = None
    paper: bool = False
    default: bool = True
    problem: str | None = None
    unseen: str | None = None

    @property
    def path_in_caller(self) -> str:
        return self.path[len(self.caller) + 1 :] if self.caller else self.path


class Kept(NamedTuple):
    """An activation that is not converted, and why. It is named by its module, or by its caller and the call."""

    name: str
    reason: str


def find_sites(model: nn.Module) -> tuple[list[Site], dict[str, str]]:
    """The sites of a model, in the order of its modules; and the names that are kept as they are, with the reasons.

    Everything below a kept name is kept, too.
    """
    found = list(_Walk(model).walk(model, "", set()))
    sites = [each for each in found if isinstance(each, Site)]
    return sites, {each.name: each.reason for each in found if isinstance(each, Kept)}


class _Walk:
    """One walk over a model: first everything is read, then the sites are listed."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = set(model.modules())
        self.seen: set[nn.Module] = set()
        # A model has many modules of few classes.
        self.host_of: Callable[[type], type[Host] | None] = cache(host_of)
        self.inherited_hosts: Callable[[type], list[type[Host]]] = cache(inherited_hosts)
        self.readings: dict[nn.Module, Reading] = {}
        entered: dict[nn.Module, list[str]] = {}
        waiting = [module for module in model.modules() if self._is_read(module) and not _is_container(module)]
        while waiting:
            module = waiting.pop()
            has_none = type(module).forward is nn.Module.forward and "forward" not in vars(module)
            methods: tuple[str, ...] = () if has_none else ("forward",)
            if type(module).__call__ is not nn.Module.__call__ and isinstance(type(module).__call__, FunctionType):
                methods += ("__call__",)
            self.readings[module] = reading = read(module, (*methods, *entered.get(module, ())))
            for other, method in reading.entered:
                if method.startswith(_NO_FEATURES) and type(other).__module__.startswith(_OPENMMLAB):
                    continue
                known = entered.setdefault(other, [])
                if method not in known and self._is_read(other):
                    known.append(method)
                    waiting.append(other)
        self.holders: dict[nn.Module, list[nn.Module]] = {}  #: modules -> those whose attributes hold their methods
        for module in self.readings:
            for owner in owners_of_held(module):
                self.holders.setdefault(owner, []).append(module)
        #: activations by the module that holds them and their name there -> who calls them
        self.callers: dict[tuple[int, str], set[nn.Module]] = {}
        for module, reading in self.readings.items():
            for path in {visit.path for visit in reading.visits if visit.path is not None}:
                self.callers.setdefault(_holder(module, path), set()).add(module)

    def _is_read(self, module: nn.Module) -> bool:
        cls = type(module)
        if "forward" in vars(module):  # somebody has replaced it
            return True
        if cls.__module__.startswith("torch.") or isinstance(module, (*ACTIVATIONS, *GATES)) or self.host_of(cls):
            return False
        if cls.forward in (nn.Sequential.forward, ConvModule.forward):
            return False
        return not (cls.__module__.startswith("mmcv.") and output_channels(module) is not None)

    def walk(
        self, module: nn.Module, prefix: str, listed: set[str], owner: nn.Module | None = None
    ) -> Iterator[Site | Kept]:
        if module in self.seen:  # seen under another name
            return
        self.seen.add(module)
        owner = owner if _is_container(module) and module not in self.readings else module
        host = self.host_of(type(module))
        if host is not None and host.reason_to_keep_all:
            yield Kept(prefix.rstrip(".") or type(module).__name__, host.reason_to_keep_all)
            return
        if isinstance(module, torch.jit.ScriptModule):
            if compiled_activates(module):
                yield _unreadable(module, prefix.rstrip("."), "it is compiled: convert it before torch.jit")
            return
        if isinstance(module, torch.fx.GraphModule) and any(map(_is_activation, module.graph.nodes)):
            yield _unreadable(module, prefix.rstrip("."), "it is traced: convert it before torch.fx")
            return
        inside = computed_inside(module)
        if inside and module not in self.readings:
            yield Kept(prefix + inside, "a layer of PyTorch's own computes it together with other things")
            return
        found: list[Site | Kept] = [*_of_hooks(module, prefix)]
        if host is not None:
            found += _of_host(module, prefix, host)
            listed.update({prefix + host.shared} if host.shared else ())
        elif module in self.readings and _is_loss(module):
            if self.readings[module].visits:
                yield Kept(prefix.rstrip(".") or type(module).__name__, "part of a loss")
            return
        elif module in self.readings:
            found += self._read_sites(module, prefix)
            listed.update(prefix + visit.path for visit in self.readings[module].visits if visit.path is not None)
        listed.update(each.path if isinstance(each, Site) else each.name for each in found)
        for name, child in module._modules.items():  # an activation may be there several times
            path = prefix + name
            if child is None or path in listed:
                continue
            if isinstance(child, ACTIVATIONS):  # first, since ReLU6 is a Hardtanh
                found.append(self._of_child(module, name, path, owner))
            elif isinstance(child, GATES):
                found.append(Kept(path, GATE))
            else:
                found.extend(self.walk(child, f"{path}.", listed, owner))
        if any(each.is_backbone for each in self.inherited_hosts(type(module))) and any(
            isinstance(each, Site) and each.paper for each in found
        ):
            found = [replace(each, default=each.paper) if isinstance(each, Site) else each for each in found]
        yield from found

    def _read_sites(self, module: nn.Module, prefix: str) -> Iterator[Site | Kept]:
        reading = self.readings[module]
        paths = {visit.path for visit in reading.visits if visit.path is not None}
        shared = {path for path in paths if len(self.callers[_holder(module, path)]) > 1}
        own = OwnSites(module, reading, shared, self.holders.get(module, ()))
        inherited = inherited_sites(module)
        names = {site.path: site.label for site in inherited}
        for site in own.sites:
            channels = site.channels()
            yield Site(
                name=prefix + names.get(site.path, site.path),
                path=prefix + site.path,
                caller=prefix.rstrip("."),
                host=None,
                source=site.layer or module,
                channels=channels.pop() if len(channels) == 1 else None,
                current=site.current,
                own=own,
                paper=any(each.paper and each.before is site.layer for each in inherited),
                problem=site.problem or reading.problem,
            )
        for name, reason in own.kept.items():
            yield Kept(prefix + name, reason)
        yield from _unseen(module, prefix, reading)
        for layer, where in reading.loose:
            # One with parameters is hidden with intent: a teacher, which is not trained.
            if layer not in self.modules and not any(True for _ in layer.parameters()) and find_sites(layer)[0]:
                yield _unreadable(
                    module, prefix + type(layer).__name__, f"{where} calls a layer outside of the network"
                )
        holds_some = any(isinstance(child, ACTIVATIONS) for child in module.children())  # which are sites then
        if reading.problem and not own.sites and not holds_some and _may_activate(module):
            yield _unreadable(module, f"{prefix}forward", reading.problem)

    def _of_child(self, parent: nn.Module, name: str, path: str, owner: nn.Module | None) -> Site | Kept:
        """An activation that ``parent`` holds and no method that was read calls."""
        caller = path.rpartition(".")[0]
        current = parent.get_submodule(name)
        if isinstance(parent, ConvModule) and type(parent).forward is ConvModule.forward:
            return Site(path, path, caller, None, parent.conv, channels_before(parent, name), current)
        reading = self.readings.get(owner) if owner is not None else None
        is_sequential = type(parent).forward is nn.Sequential.forward or (
            parent is owner and reading and reading.sequential
        )
        if isinstance(parent, nn.Sequential) and is_sequential:
            return Site(path, path, caller, None, parent, channels_before(parent, name), current)
        if reading is not None and reading.problem is None and not reading.unknown:
            return Kept(path, NEVER_CALLED)
        if reading is not None and reading.problem is None:
            return Site(path, path, caller, None, parent, None, current, unseen=reading.unknown[0])
        cls = type(owner or parent)
        problem = f"acon_mm does not know how {cls.__module__}.{cls.__qualname__} calls it"
        if reading is not None and reading.problem:
            problem = reading.problem
        return Site(path, path, caller, None, parent, None, current, problem=problem)


def _may_activate(module: nn.Module) -> bool:
    """Whether a forward that cannot be read, or a method of its class, names an activation; or shows no code."""
    if any(activating_functions(type(module))):
        return True
    forward: Any = module.forward
    while isinstance(forward, partial):
        forward = forward.func
    code = getattr(forward, "__code__", None)
    return code is None or mentions_activation(code)


def _is_activation(node: torch.fx.Node) -> bool:
    return node.target in (ACTIVATION_METHODS if node.op == "call_method" else ACTIVATION_FUNCTIONS)


def _of_hooks(module: nn.Module, prefix: str) -> Iterator[Site]:
    for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
        if isinstance(hook, FunctionType) and mentions_activation(hook.__code__):
            yield _unreadable(module, prefix + hook.__name__, f"a hook of {type(module).__name__} calls it")


def _unseen(module: nn.Module, prefix: str, reading: Reading) -> Iterator[Site]:
    """Methods that activate and were not read, where the module calls something that only a run tells."""
    if not reading.unknown or reading.problem:
        return
    for name, function in activating_functions(type(module)):
        if unwrap(function) not in reading.functions:
            problem = f"{function.__qualname__} may be what {reading.unknown[0]} calls"
            yield _unreadable(module, prefix + name, problem)
    for function in reading.functions:
        if not ACTIVATION_METHODS.keys().isdisjoint(function.__code__.co_consts):  # methodcaller("relu")
            problem = f"it names an activation in a text, which {reading.unknown[0]} may call"
            yield _unreadable(module, prefix + function.__name__, problem)


def _unreadable(module: nn.Module, path: str, problem: str) -> Site:
    return Site(path or type(module).__name__, path, path, None, module, None, None, problem=problem)


def _of_host(module: nn.Module, prefix: str, host: type[Host]) -> Iterator[Site | Kept]:
    sites, kept = host.sites(module), host.kept(module)
    for site in sites:
        yield Site(
            name=prefix + site.label,
            path=prefix + site.path,
            caller=prefix.rstrip("."),
            host=host,
            source=site.before,
            channels=site.resolved_channels(),
            current=submodule(module, site.path) or (submodule(module, host.shared) if host.shared else None),
            paper=site.paper,
        )
    for name, reason in kept.items():
        yield Kept(prefix + name, reason)
    if host.shared in module._modules and not sites and host.shared not in kept:
        yield Kept(prefix + host.shared, NEVER_CALLED)


def _is_container(module: nn.Module) -> bool:
    """Whether a module calls none of its children itself."""
    return isinstance(module, (nn.ModuleList, nn.ModuleDict)) and type(module).forward is nn.Module.forward


def _is_loss(module: nn.Module) -> bool:
    cls = type(module)
    return cls.__name__.endswith("Loss") or ".losses." in f".{cls.__module__}."


def _holder(module: nn.Module, path: str) -> tuple[int, str]:
    """The module that holds ``path``, and the name there."""
    parent, _, name = path.rpartition(".")
    return id(module.get_submodule(parent)), name


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """The submodule of that name; None if there is none."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def select(sites: Sequence[Site], act_sites: ActSites, where: str) -> list[Site]:
    """The sites that ``act_sites`` chooses.

    Args:
        act_sites: ``'all'``; ``'paper'``; None (the paper's sites in backbones that have them, all sites elsewhere); or
            a list of names. A name chooses the sites whose dotted name contains it as whole parts (``'act2'``,
            ``'layer4'``, ``'layer4.0'``), or matches it as a pattern (``'layer4.*.act2'``).
        where: the name of the model, for messages.

    Raises:
        ValueError: ``act_sites`` is something else; a name matches no site; no site is chosen; or a chosen site cannot
            be converted.
    """
    if act_sites is None:
        chosen = [site for site in sites if site.default]
    elif act_sites == "all":
        chosen = list(sites)
    elif act_sites == "paper":
        chosen = [site for site in sites if site.paper]
    elif not _is_list_of_names(act_sites):
        raise ValueError(f"act_sites of {where} must be 'paper', 'all' or a list of site names, got {act_sites!r}")
    else:
        for entry in act_sites:
            if not any(_matches(entry, site.name) for site in sites):
                raise ValueError(f"act_sites of {where}: no site matches {entry!r}. The sites are {_names(sites)}")
        chosen = [site for site in sites if any(_matches(entry, site.name) for entry in act_sites)]
    if not chosen:
        raise ValueError(
            f"act_sites={act_sites!r} chooses no site of {where}: use 'all' or a list of names. "
            f"The sites are {_names(sites)}"
        )
    for site in chosen:
        if site.problem:
            raise ValueError(
                f"the activation {site.name} of {where} cannot be converted: {site.problem}. "
                "Choose other sites by act_sites=[...], or leave act_cfg out here"
            )
    return chosen


def _is_list_of_names(act_sites: ActSites) -> bool:
    if isinstance(act_sites, str) or not isinstance(act_sites, Collection):
        return False
    return all(isinstance(entry, str) for entry in act_sites)


def _matches(entry: str, name: str) -> bool:
    return f".{entry}." in f".{name}." or fnmatchcase(name, entry)


def _names(sites: Sequence[Site]) -> str:
    names = [site.name for site in sites]
    return ", ".join(names if len(names) <= 12 else [*names[:8], "...", *names[-3:]])
