"""The activation sites of a model: how they are found, and how ``act_sites`` chooses among them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import HSigmoid, Swish
from torch import nn

from ..layers import Acon
from .channels import Channels, channels_before
from .hosts import NEVER_CALLED, Host, host_of

#: the layers that ``act_cfg`` replaces: ReLU, and what networks use instead of it
ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU),
    *(nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish, Swish, Acon),
)
#: the layers that ``act_cfg`` keeps
GATES = (nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Hardtanh, nn.Softmax, HSigmoid)

GATE = "a gate: it bounds a value, or weighs another"

ActSites = str | Sequence[str] | None


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
        current: the present activation; None if it is a function.
        paper: whether the ResNets of the paper have an ACON here.
        default: whether ``act_sites=None`` chooses the site.
        problem: why the site cannot be converted; None if it can.
    """

    name: str
    path: str
    caller: str
    host: type[Host] | None
    source: nn.Module
    channels: Channels | None
    current: nn.Module | None
    paper: bool = False
    default: bool = True
    problem: str | None = None


class Kept(NamedTuple):
    """An activation that is not converted, and why. It is named by its module, or by its caller and the call."""

    name: str
    reason: str


def find_sites(model: nn.Module) -> tuple[list[Site], dict[str, str]]:
    """The sites of a model, in the order of its modules; and the names that are kept as they are, with the reasons.

    Everything below a kept name is kept, too.
    """
    found = list(_walk(model, "", listed=set(), seen=set()))
    sites = [each for each in found if isinstance(each, Site)]
    return sites, {each.name: each.reason for each in found if isinstance(each, Kept)}


def _walk(module: nn.Module, prefix: str, listed: set[str], seen: set[nn.Module]) -> Iterator[Site | Kept]:
    if module in seen:  # seen under another name
        return
    seen.add(module)
    host = host_of(module)
    if host is not None and host.reason_to_keep_all:
        yield Kept(prefix.rstrip(".") or type(module).__name__, host.reason_to_keep_all)
        return
    found = list(_of_host(module, prefix, host)) if host is not None else []
    listed.update(each.path if isinstance(each, Site) else each.name for each in found)
    if host is not None and host.shared:
        listed.add(prefix + host.shared)
    for name, child in module.named_children():
        path = prefix + name
        if path in listed:
            continue
        if isinstance(child, ACTIVATIONS):  # first, since ReLU6 is a Hardtanh
            found.append(_of_child(module, name, path))
        elif isinstance(child, GATES):
            found.append(Kept(path, GATE))
        else:
            found.extend(_walk(child, f"{path}.", listed, seen))
    if host is not None and host.is_backbone and any(isinstance(each, Site) and each.paper for each in found):
        # A site that cannot be converted is a default site, so that it raises an error and is not left out silently.
        found = [
            replace(each, default=each.paper or bool(each.problem)) if isinstance(each, Site) else each
            for each in found
        ]
    yield from found


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


def _of_child(parent: nn.Module, name: str, path: str) -> Site:
    source, channels, problem = _before(parent, name)
    return Site(
        name=path,
        path=path,
        caller=path.rpartition(".")[0],
        host=None,
        source=source,
        channels=channels,
        current=parent.get_submodule(name),
        problem=problem,
    )


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """The submodule of that name; None if there is none."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _before(parent: nn.Module, name: str) -> tuple[nn.Module, Channels | None, str | None]:
    """Source, channels and problem of the activation ``name`` of a module without a table entry."""
    if isinstance(parent, ConvModule):
        return parent.conv, channels_before(parent, name), None
    if isinstance(parent, nn.Sequential):
        return parent, channels_before(parent, name), None
    cls = f"{type(parent).__module__}.{type(parent).__qualname__}"
    return parent, None, f"acon_mm does not know how {cls} calls it"


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
