"""The table of upstream modules whose activations their children alone do not tell, and how each gets one per site.

A :class:`Host` is the entry of one upstream class: which sites it has, what stays and why, and which calls in its
methods are which site. When a site of a module is switched that calls a shared or functional activation, the
module's class becomes a subclass of the entry and its own class (:func:`patch_class`), under the same name:
``isinstance``, parameter keys and everything else of it stay. The entries are in ``tables/``.
"""

from collections.abc import Sequence
from functools import cache
from typing import ClassVar, NamedTuple

from torch import nn

from .channels import Channels, output_channels
from .rewrite import rewrite

#: reasons why an activation stays
DEAD = "never called"


class HostSite(NamedTuple):
    """An activation site of a host.

    Attributes:
        path: where the activation lives, from the host: ``"act2"``, ``"shared_acts.0"``.
        before: the layer that the site follows: it tells channels, device, dtype and whether the site is frozen.
        paper: whether the paper's ResNets activate here.
        name: what users call the site, if not its path.
        channels: those there, where ``before`` does not tell them.
    """

    path: str
    before: nn.Module
    paper: bool = False
    name: str | None = None
    channels: Channels | None = None

    @property
    def label(self) -> str:
        return self.name or self.path

    def resolved_channels(self) -> Channels | None:
        return self.channels or output_channels(self.before)


class Host:
    """Base of the entries. A class that fits the pattern needs these alone::

        class BasicBlockSites(Host):
            upstream = ("mmdet.models.backbones.resnet.BasicBlock.forward",)
            calls = {"forward": ("self.act1", "self.act2")}
            before = {"act1": "conv1", "act2": "conv2"}

    ``upstream`` names the method that a module really runs (``forward_single`` where a class defines it, else
    ``forward``): subclasses which inherit it are covered, those that override it are not.
    """

    upstream: ClassVar[tuple[str, ...]]
    #: site -> the layer that it follows, both from the module; or override :meth:`sites`
    before: ClassVar[dict[str, str]] = {}
    #: the sites in ``before`` that the paper's ResNets have
    paper: ClassVar[tuple[str, ...]] = ()
    #: method -> what each activation call in it becomes, see :func:`~acon_mm.convert.rewrite.rewrite`; a method that
    #: the class does not have is passed over. Not needed where a module calls an attribute of its own for one site
    #: only.
    calls: ClassVar[dict[str, Sequence[str | None]]] = {}
    #: what else counts as such a call: a part that upstream calls in a way that its activations do not stand
    also_calls: ClassVar[tuple[str, ...]] = ()
    #: attribute that upstream shares between the sites; it goes once every site has an activation of its own
    shared: ClassVar[str | None] = "relu"
    #: whether sites below this module default to the paper's, if it has such, and not to all
    is_backbone: ClassVar[bool] = False
    #: whether the class takes an ``act_cfg`` that its ``**kwargs`` and bases seem to take
    takes_act_cfg: ClassVar[bool] = True
    #: why the module and everything in it stays as it is
    stays: ClassVar[str | None] = None

    _by_method: ClassVar[dict[str, type["Host"]]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for method in cls.__dict__.get("upstream", ()):
            Host._by_method[method] = cls

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        """The sites of an upstream module, in the order of its forward."""
        return [HostSite(path, module.get_submodule(layer), path in cls.paper) for path, layer in cls.before.items()]

    @classmethod
    def kept(cls, module: nn.Module) -> dict[str, str]:
        """What stays, with the reason: attributes (and all that is in them), and calls as upstream's source has them.

        ``{"relu": DEAD, "bbox_pred.clamp(min=0)": "bounds a distance"}``
        """
        return {}

    def act_after(self, layer: nn.Module) -> nn.Module:
        """The activation at the site behind ``layer``: what ``calls`` name where upstream loops over layers."""
        sites = type(self).__bases__[0].sites(self)
        return self.get_submodule(next(site.path for site in sites if site.before is layer))

    def __reduce_ex__(self, protocol):
        # The subclass is made at run time, so a pickle names the two classes that it is made of.
        entry, upstream = type(self).__bases__
        return _new, (entry, upstream), self.__getstate__()


def host_of(module: nn.Module) -> type[Host] | None:
    """The entry for a module, adopted already or not; None if its class is not in the table."""
    return type(module).__bases__[0] if isinstance(module, Host) else host_of_class(type(module))


def host_of_class(cls: type) -> type[Host] | None:
    """The entry for an upstream class; None if it is not in the table."""
    # A class that has both, or inherits one of them, runs the one that is defined last.
    owners = (base for base in cls.__mro__ if "forward_single" in vars(base) or "forward" in vars(base))
    owner = next(owners, None)
    method = vars(owner).get("forward_single") or vars(owner).get("forward") if owner else None
    return Host._by_method.get(f"{getattr(method, '__module__', '')}.{getattr(method, '__qualname__', '')}")


def patched_class(module: nn.Module, host: type[Host]) -> type[nn.Module]:
    """The class that :func:`patch_class` gives to ``module``: its own, where no method changes.

    Raises:
        ValueError: a method cannot be rewritten, see :func:`~acon_mm.convert.rewrite.rewrite`.
        TypeError: the entry has a site in a ``Sequential``, which would call the new activation as one of its layers.
    """
    if isinstance(module, Host):
        return type(module)
    for site in host.sites(module):
        holder = module
        for name in site.path.split("."):
            if name not in holder._modules:
                if type(holder) is nn.Sequential:
                    raise TypeError(f"{host.__name__}: {site.path} would be called as a part of the Sequential")
                break
            holder = holder._modules[name]
    return _subclass(host, type(module))


def patch_class(module: nn.Module, host: type[Host]) -> None:
    """Give ``module`` the methods of ``host``, and its present activation at every site.

    Raises:
        ValueError, TypeError: see :func:`patched_class`; the module is unchanged.
    """
    if isinstance(module, Host):
        return
    subclass = patched_class(module, host)
    sites = host.sites(module)
    present = getattr(module, host.shared, None) if host.shared else None
    if subclass is not type(module):
        module.__class__ = subclass
    for site in sites:
        *parents, leaf = site.path.split(".")
        holder = module
        for parent in parents:
            if parent not in holder._modules:
                holder.add_module(parent, nn.ModuleList())  # a list that only the entry has: "shared_acts"
            holder = holder._modules[parent]
        if leaf not in holder._modules:
            holder.add_module(leaf, nn.ReLU() if present is None else present)


def drop_shared(module: nn.Module, host: type[Host]) -> None:
    """Remove the shared activation of an adopted module if no site uses it any more."""
    shared = module._modules.get(host.shared) if host.shared else None
    paths = [site.path for site in host.sites(module)]
    in_use = (
        not paths
        or host.shared in (*paths, *host.kept(module))
        or any(module.get_submodule(path) is shared for path in paths)
    )
    if shared is not None and not in_use:
        delattr(module, host.shared)


@cache
def _subclass(host: type[Host], upstream: type[nn.Module]) -> type[nn.Module]:
    """``upstream`` with the methods that ``host`` defines or rewrites."""
    own = {name for base in host.__mro__[: host.__mro__.index(Host)] for name in vars(base)} - set(vars(Host))
    if not host.calls and not any(callable(getattr(upstream, name, None)) for name in own):
        return upstream
    namespace = {"__module__": upstream.__module__, "__qualname__": upstream.__qualname__, "__doc__": upstream.__doc__}
    for name, calls in host.calls.items():
        if hasattr(upstream, name):
            namespace[name] = rewrite(getattr(upstream, name), calls, host.also_calls)
    return type(upstream)(upstream.__name__, (host, upstream), namespace)


def _new(host: type[Host], upstream: type[nn.Module]) -> nn.Module:
    subclass = _subclass(host, upstream)
    return subclass.__new__(subclass)
