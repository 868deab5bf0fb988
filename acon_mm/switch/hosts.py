"""Modules that share one activation between sites, or call a functional one: how each gets one activation per site.

A :class:`Host` is a mixin for one upstream class. When a site of a module is switched, the module's class becomes a
subclass of the mixin and its own class (:func:`adopt`), under the same name: ``isinstance``, parameter keys and
everything else of it stay, and the mixin's forward calls each site's own activation. The family files beside this one
hold the mixins; importing :mod:`acon_mm.switch` loads them.
"""

from functools import cache
from typing import ClassVar, NamedTuple

from torch import nn


class HostSite(NamedTuple):
    """An activation site of a host.

    Attributes:
        path: where the activation lives, from the host: ``"act2"``, ``"shared_acts.0"``.
        before: the layer that the site follows: it tells width, device, dtype and whether the site is frozen.
        paper: whether the paper's ResNets activate here.
        name: what users call the site, if not its path.
    """

    path: str
    before: nn.Module
    paper: bool = False
    name: str | None = None

    @property
    def label(self) -> str:
        return self.name or self.path


class Host:
    """Base of the mixins; ``upstream`` names the forward methods that a mixin replaces, or relies on.

    The key is the method that a module really runs, so subclasses which inherit it are covered and those that override
    it are not.
    """

    upstream: ClassVar[tuple[str, ...]]
    #: the attribute that upstream shares between the sites; it goes once every site has an activation of its own
    shared: ClassVar[str | None] = "relu"
    #: whether sites below this module default to the paper's (backbones), not to all
    is_backbone: ClassVar[bool] = False

    _by_method: ClassVar[dict[str, type["Host"]]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for method in cls.__dict__.get("upstream", ()):
            Host._by_method[method] = cls

    @staticmethod
    def sites(module: nn.Module) -> list[HostSite]:
        """The sites of an upstream module, in the order of its forward."""
        raise NotImplementedError

    def __reduce_ex__(self, protocol):
        # The subclass is made at run time, so a pickle names the two classes that it is made of.
        mixin, upstream = type(self).__bases__
        return _new, (mixin, upstream), self.__getstate__()


def host_of(module: nn.Module) -> type[Host] | None:
    """The mixin for a module, adopted already or not; None if its class is not in the table."""
    if isinstance(module, Host):
        return type(module).__bases__[0]
    for name in ("forward_single", "forward"):
        method = getattr(type(module), name, None)
        host = Host._by_method.get(f"{getattr(method, '__module__', '')}.{getattr(method, '__qualname__', '')}")
        if host is not None:
            return host
    return None


def adopt(module: nn.Module, host: type[Host]) -> None:
    """Turn ``module`` into a ``host``, with its present activation at every site."""
    if isinstance(module, Host):
        return
    sites = host.sites(module)
    present = getattr(module, host.shared) if host.shared else nn.ReLU()
    module.__class__ = _subclass(host, type(module))
    for site in sites:
        parent, _, leaf = site.path.rpartition(".")
        if parent and not hasattr(module, parent.partition(".")[0]):
            module.add_module(parent, nn.ModuleList())  # of a mixin's own: "shared_acts"
        owner = module.get_submodule(parent)
        if leaf not in owner._modules:
            owner.add_module(leaf, present)


def drop_shared(module: nn.Module, host: type[Host]) -> None:
    """Remove the shared activation of an adopted module if no site uses it any more."""
    shared = module._modules.get(host.shared) if host.shared else None
    paths = [site.path for site in host.sites(module)]
    in_use = host.shared in paths or any(module.get_submodule(path) is shared for path in paths)
    if shared is not None and not in_use:
        delattr(module, host.shared)


@cache
def _subclass(host: type[Host], upstream: type[nn.Module]) -> type[nn.Module]:
    namespace = {"__module__": upstream.__module__, "__qualname__": upstream.__qualname__, "__doc__": upstream.__doc__}
    return type(upstream)(upstream.__name__, (host, upstream), namespace)


def _new(host: type[Host], upstream: type[nn.Module]) -> nn.Module:
    subclass = _subclass(host, upstream)
    return subclass.__new__(subclass)
