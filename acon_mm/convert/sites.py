"""The activation sites of a model: finding them and choosing among them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import HSigmoid, Swish
from torch import nn

from ..layers import Acon
from .channels import Channels, channels_before
from .hosts import DEAD, Host, host_of

#: what ``act_cfg`` means: layers that a network may have in ReLU's place
ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU),
    *(nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish, Swish, Acon),
)
#: what it does not mean
GATES = (nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Hardtanh, nn.Softmax, HSigmoid)

GATE = "a gate: it bounds a value, or weighs another"

ActSites = str | Sequence[str] | None


@dataclass(frozen=True)
class Site:
    """A place where a model activates.

    Attributes:
        name: dotted, from the model: what ``act_sites`` and messages call it.
        path: dotted: where its module lives.
        owner: dotted: the module that calls it.
        host: the owner's table entry, if it has one.
        source: the layer before: its device, dtype and frozenness are the site's.
        channels: how many there are, and at which dimension; None where nothing tells.
        current: the activation there now; None for a functional one.
        paper: whether the paper's ResNets activate there.
        default: whether the site is among those that ``act_sites=None`` means.
        problem: why the site cannot be switched; None if it can.
    """

    name: str
    path: str
    owner: str
    host: type[Host] | None
    source: nn.Module
    channels: Channels | None
    current: nn.Module | None
    paper: bool = False
    default: bool = True
    problem: str | None = None


class Kept(NamedTuple):
    """An activation that is no site, and why: the name is its module's, or its owner's and the call's."""

    name: str
    reason: str


def find_sites(model: nn.Module) -> tuple[list[Site], dict[str, str]]:
    """The sites of a model, in the order of its modules; and what stays (with all that is below it), with reasons."""
    found = list(_walk(model, "", claimed=set(), seen=set()))
    sites = [each for each in found if isinstance(each, Site)]
    return sites, {each.name: each.reason for each in found if isinstance(each, Kept)}


def _walk(module: nn.Module, prefix: str, claimed: set[str], seen: set[nn.Module]) -> Iterator[Site | Kept]:
    if module in seen:  # met before, under another name
        return
    seen.add(module)
    host = host_of(module)
    if host is not None and host.stays:
        yield Kept(prefix.rstrip(".") or type(module).__name__, host.stays)
        return
    found = list(_of_host(module, prefix, host)) if host is not None else []
    claimed.update(each.path if isinstance(each, Site) else each.name for each in found)
    if host is not None and host.shared:
        claimed.add(prefix + host.shared)
    for name, child in module.named_children():
        path = prefix + name
        if path in claimed:
            continue
        if isinstance(child, ACTIVATIONS):  # first, since ReLU6 is a Hardtanh
            found.append(_of_child(module, name, path))
        elif isinstance(child, GATES):
            found.append(Kept(path, GATE))
        else:
            found.extend(_walk(child, f"{path}.", claimed, seen))
    if host is not None and host.is_backbone and any(isinstance(each, Site) and each.paper for each in found):
        # A site nobody handles is never passed over silently, so it counts as meant.
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
            owner=prefix.rstrip("."),
            host=host,
            source=site.before,
            channels=site.resolved_channels(),
            current=submodule(module, site.path) or (submodule(module, host.shared) if host.shared else None),
            paper=site.paper,
        )
    for name, reason in kept.items():
        yield Kept(prefix + name, reason)
    if host.shared in module._modules and not sites and host.shared not in kept:
        yield Kept(prefix + host.shared, DEAD)


def _of_child(parent: nn.Module, name: str, path: str) -> Site:
    source, channels, problem = _before(parent, name)
    return Site(
        name=path,
        path=path,
        owner=path.rpartition(".")[0],
        host=None,
        source=source,
        channels=channels,
        current=parent.get_submodule(name),
        problem=problem,
    )


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """The submodule at ``path``; None if there is none."""
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
    kind = f"{type(parent).__module__}.{type(parent).__qualname__}"
    return parent, None, f"{kind} calls it in a way that acon_mm does not know"


def select(sites: Sequence[Site], act_sites: ActSites, where: str) -> list[Site]:
    """The sites that ``act_sites`` means.

    Args:
        act_sites: ``'all'``; ``'paper'``; None (the paper's in backbones that have them, all elsewhere); or names:
            each means the sites whose dotted name has it as a run of whole parts (``'act2'``, ``'layer4'``,
            ``'layer4.0'``), or matches it as a pattern (``'layer4.*.act2'``).
        where: what the sites belong to, for messages.

    Raises:
        ValueError: a name means no site; or nothing is chosen; or a chosen site cannot be switched.
    """
    if act_sites is None:
        chosen = [site for site in sites if site.default]
    elif act_sites == "all":
        chosen = list(sites)
    elif act_sites == "paper":
        chosen = [site for site in sites if site.paper]
    elif isinstance(act_sites, str) or not all(isinstance(entry, str) for entry in act_sites):
        raise ValueError(f"act_sites of {where} must be 'paper', 'all' or a list of site names, got {act_sites!r}")
    else:
        for entry in act_sites:
            if not any(_means(entry, site.name) for site in sites):
                raise ValueError(f"act_sites of {where}: {entry!r} is none of its sites, which are {_spell(sites)}")
        chosen = [site for site in sites if any(_means(entry, site.name) for entry in act_sites)]
    if not chosen:
        raise ValueError(
            f"act_sites={act_sites!r} chooses none of the sites of {where}, which are {_spell(sites)}: "
            "use 'all' or a list of names"
        )
    for site in chosen:
        if site.problem:
            raise ValueError(
                f"the activation {site.name} of {where} cannot be switched: {site.problem}. "
                "Choose other sites by act_sites=[...], or leave act_cfg out here"
            )
    return chosen


def _means(entry: str, name: str) -> bool:
    return f".{entry}." in f".{name}." or fnmatchcase(name, entry)


def _spell(sites: Sequence[Site]) -> str:
    names = [site.name for site in sites]
    return ", ".join(names if len(names) <= 12 else [*names[:8], "...", *names[-3:]])
