"""The base of the table entries, for upstream classes whose children alone do not show their activation sites.

A :class:`Host` is the entry of one upstream class. It says which sites the class has, which activations are kept and
why, and which call in its methods belongs to which site. Some modules use one activation at several sites, or call a
function. When a site of such a module is converted, :func:`patch_class` changes the module's class to a subclass of
the entry and of its own class. The subclass has the same name, so ``isinstance``, parameter names and everything else
stay the same. The entries are in ``tables/``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from torch import nn

from ..compat import state_of
from .channels import Channels, output_channels
from .rewrite import rewrite
from .source import Source
from .upstream_sources import SOURCES

_TABLES = f"{__package__}.tables."
#: the reason for an activation that its class never uses
NEVER_CALLED = "never called"
#: the reason for all activations of a text encoder
LANGUAGE_MODEL = "a language model, whose weights are downloaded as they are"


class HostSite(NamedTuple):
    """An activation site of a host.

    Attributes:
        path: name of the activation in the host: ``"act2"``, ``"shared_acts.0"``.
        before: the layer before the site. The new activation takes its channels, device and dtype, and is frozen if
            the layer is.
        paper: whether the ResNets of the paper have an ACON here.
        name: the name of the site for users; None: its path.
        channels: the channels at the site, where ``before`` does not show them.
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


if TYPE_CHECKING:  # the methods of an entry also use the attributes of the upstream class, which has no types
    _Upstream = Any
else:
    _Upstream = object


class Host(_Upstream):
    """Base of the table entries. Most entries need only this::

        @register_sites("mmdet.models.backbones.resnet.BasicBlock.forward")
        class BasicBlockSites(Host):
            calls = {"forward": ("self.act1", "self.act2")}
            before = {"act1": "conv1", "act2": "conv2"}

    Subclasses of upstream's class that inherit its methods have the same entry. Subclasses that override one of them
    are read, as any other class.
    """

    #: site -> the layer before it, both by their names in the module; or override :meth:`sites`
    before: ClassVar[dict[str, str]] = {}
    #: the sites in ``before`` where the ResNets of the paper have an ACON
    paper: ClassVar[tuple[str, ...]] = ()
    #: method -> the expression to call instead of each activation call in it, see
    #: :func:`~acon_mm.convert.rewrite.rewrite`. Methods that the class does not have are left out. Not needed for a
    #: module that calls its own attribute at a single site.
    calls: ClassVar[dict[str, Sequence[str | None]]] = {}
    #: calls to count as activation calls as well: of submodules with activations that need another input shape
    also_calls: ClassVar[tuple[str, ...]] = ()
    #: the attribute that upstream uses at several sites; removed when every site has an activation of its own
    shared: ClassVar[str | None] = "relu"
    #: True: ``act_sites=None`` means the paper's sites, if the module has some
    is_backbone: ClassVar[bool] = False
    #: False if the class does not take ``act_cfg``, although its ``**kwargs`` and its bases look like it
    takes_act_cfg: ClassVar[bool] = True
    #: why nothing in the module is converted
    reason_to_keep_all: ClassVar[str | None] = None

    _by_method: ClassVar[dict[str, type[Host]]] = {}

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        """The sites of an upstream module, in the order of its forward."""
        return [
            HostSite(path, module.get_submodule(layer), paper=path in cls.paper) for path, layer in cls.before.items()
        ]

    @classmethod
    def kept(cls, module: nn.Module) -> dict[str, str]:
        """The activations that are not converted, each with the reason.

        They are named by their attribute (everything inside is kept, too), or by the call in upstream's source:
        ``{"relu": NEVER_CALLED, "bbox_pred.clamp(min=0)": "keeps a distance from being negative"}``.
        """
        return {}

    def act_after(self, layer: nn.Module) -> nn.Module:
        """The activation at the site after ``layer``. ``calls`` use it where upstream loops over layers."""
        entry: Any = type(self).__bases__[0]
        return self.get_submodule(next(site.path for site in entry.sites(self) if site.before is layer))

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # The subclass is made at run time, so a pickle names its two base classes instead.
        entry, upstream = type(self).__bases__
        return _new_instance, (entry, upstream), state_of(self)


Entry = TypeVar("Entry", bound=type[Host])


def register_sites(*upstream: str | type[nn.Module]) -> Callable[[Entry], Entry]:
    """A decorator that makes a :class:`Host` the entry of classes.

    Args:
        upstream: the classes. Or the methods that they run, as ``'module.Class.method'``, which does not import them:
            ``forward_single`` where the class defines it, else ``forward``.
    """

    def register(entry: Entry) -> Entry:
        for each in upstream:
            Host._by_method[each if isinstance(each, str) else _name_of(_method_of(each))] = entry
        return entry

    return register


def inherited_hosts(cls: type) -> list[type[Host]]:
    """The entries of a class and of all its bases, whether the class overrides their methods or not."""
    methods = (vars(base).get(name) for base in cls.__mro__ for name in ("forward_single", "forward"))
    return [host for host in dict.fromkeys(Host._by_method.get(_name_of(each)) for each in methods) if host is not None]


def inherited_sites(module: nn.Module) -> list[HostSite]:
    """The sites of those entries: of a subclass with other methods, only their names and layers may still fit."""
    found: list[HostSite] = []
    for host in inherited_hosts(type(module)):
        with suppress(AttributeError):  # the subclass has no such layer
            found += host.sites(module)
    return found


def host_of(cls: type) -> type[Host] | None:
    """The entry of a class, also of one of :func:`patch_class`; None if it has none, or if its methods are others."""
    if issubclass(cls, Host):
        return cls.__bases__[0]
    host = Host._by_method.get(_name_of(_method_of(cls)))
    return host if host is not None and _fits(host, cls) else None


def _method_of(cls: type) -> Any:
    """The method that a class runs. It may have both, and inherit one of them: then the one that is defined last."""
    definers = (base for base in cls.__mro__ if "forward_single" in vars(base) or "forward" in vars(base))
    definer = next(definers, object)
    return vars(definer).get("forward_single") or vars(definer).get("forward")


def _name_of(method: Any) -> str:
    return f"{getattr(method, '__module__', '')}.{getattr(method, '__qualname__', '')}"


def _fits(host: type[Host], cls: type) -> bool:
    """Whether the methods that an entry changes have the sources that it was written for.

    Another source may activate in another order. The entries of users have no known sources; they say what they fit.
    """
    changed = {*host.calls, *({"forward"} & _own_names(host))}
    methods = [getattr(cls, name) for name in changed if hasattr(cls, name)]
    return not host.__module__.startswith(_TABLES) or all(
        Source.of(method).digest in SOURCES.get(_name_of(method), "").split() for method in methods
    )


def _own_names(host: type[Host]) -> set[str]:
    """What an entry and its bases define, apart from :class:`Host`."""
    return {name for base in host.__mro__[: host.__mro__.index(Host)] for name in vars(base)} - set(vars(Host))


def patched_class(module: nn.Module, host: type[Host]) -> type[nn.Module]:
    """The class that :func:`patch_class` gives to ``module``. It is the present class if no method changes.

    Raises:
        ValueError: a method cannot be rewritten, see :func:`~acon_mm.convert.rewrite.rewrite`.
        TypeError: the entry has a new site in a ``Sequential``, which would call the activation as one of its layers.
    """
    if isinstance(module, Host):
        return type(module)
    for site in host.sites(module):
        holder = module
        for name in site.path.split("."):
            if name not in holder._modules:
                if type(holder) is nn.Sequential:
                    raise TypeError(
                        f"{host.__name__}: the Sequential would call the new activation {site.path} as one of its "
                        "layers: give the site a name outside of the Sequential"
                    )
                break
            holder = holder.get_submodule(name)
    return _subclass(host, type(module))  # type: ignore[arg-type]  # mypy does not see that classes are hashable


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
            holder = holder.get_submodule(parent)
        if leaf not in holder._modules:
            holder.add_module(leaf, nn.ReLU() if present is None else present)


def remove_shared(module: nn.Module, host: type[Host]) -> None:
    """Remove the shared activation of a patched module when no site uses it any more."""
    if host.shared is None:
        return
    shared = module._modules.get(host.shared)
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
    """A subclass of ``upstream`` with the methods that ``host`` defines or rewrites; ``upstream`` if there are none."""
    if not host.calls and not any(callable(getattr(upstream, name, None)) for name in _own_names(host)):
        return upstream
    namespace: dict[str, Any] = {name: getattr(upstream, name) for name in ("__module__", "__qualname__", "__doc__")}
    for name, calls in host.calls.items():
        if hasattr(upstream, name):
            namespace[name] = rewrite(getattr(upstream, name), calls, host.also_calls)
    metaclass: Any = type(upstream)
    return metaclass(upstream.__name__, (host, upstream), namespace)


def _new_instance(host: type[Host], upstream: type[nn.Module]) -> nn.Module:
    subclass = _subclass(host, upstream)  # type: ignore[arg-type]
    return subclass.__new__(subclass)
