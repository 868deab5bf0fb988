"""Each entry of the tables names methods that exist, and its rewriting of them fits the installed versions."""

from importlib import import_module, metadata

import pytest

from acon_mm.convert.hosts import SOURCES, Host, _subclass, host_of
from acon_mm.convert.source import Source

#: CLRNet, a lane detector: only the maintained fork has it
FORK_ONLY = {
    "mmdet.models.necks.clrnet_fpn.CLRFPN.forward",
}
IS_FORK = any(each.metadata["Name"] == "onedl-mmdetection" for each in metadata.distributions())
ENTRIES = {
    entry: host for entry, host in Host._by_method.items() if host.__module__.startswith("acon_mm.convert.tables")
}
#: mmpretrain is not a part of the environment: docs/coverage.md says how its networks were checked
INSTALLED = sorted(
    entry for entry in ENTRIES if not entry.startswith("mmpretrain.") and (IS_FORK or entry not in FORK_ONLY)
)


def upstream_class(entry: str) -> type:
    module, name, _ = entry.rsplit(".", 2)
    return getattr(import_module(module), name)


@pytest.mark.parametrize("entry", INSTALLED)
def test_upstream_has_the_method(entry):
    """Its class defines it itself, so that the entry is found for it."""
    cls = upstream_class(entry)
    method = vars(cls)[entry.rpartition(".")[2]]
    assert f"{method.__module__}.{method.__qualname__}" == entry
    assert host_of(cls) is Host._by_method[entry]


@pytest.mark.parametrize("entry", [entry for entry in INSTALLED if Host._by_method[entry].calls])
def test_calls_fit_upstream(entry):
    """Every method in ``calls`` that the class has is rewritten, which needs as many activation calls as listed."""
    host, cls = Host._by_method[entry], upstream_class(entry)
    methods = [name for name in host.calls if hasattr(cls, name)]
    assert methods
    subclass = _subclass(host, cls)
    for name in methods:
        assert vars(subclass)[name].__code__ is not getattr(cls, name).__code__


@pytest.mark.parametrize("entry", sorted(FORK_ONLY))
def test_only_the_fork_has(entry):
    assert entry in Host._by_method
    if IS_FORK:
        assert upstream_class(entry)
    else:
        with pytest.raises(ModuleNotFoundError):
            upstream_class(entry)


def test_every_entry_of_the_tables_is_registered():
    """Each class in the tables is the entry of at least one method."""

    def entries(base: type[Host]) -> set[type[Host]]:
        return {base, *(each for cls in base.__subclasses__() for each in entries(cls))}

    in_tables = {cls for cls in entries(Host) if cls.__module__.startswith("acon_mm.convert.tables")}
    assert in_tables == set(ENTRIES.values())


@pytest.mark.parametrize("method", [name for name in SOURCES if not name.startswith("mmpretrain.")])
def test_sources_are_those_of_upstream(method):
    """Otherwise the entry is not used, and its class is read."""
    if method.rpartition(".")[0] not in {name.rpartition(".")[0] for name in FORK_ONLY} or IS_FORK:
        assert Source.of(getattr(upstream_class(method), method.rpartition(".")[2])).digest in SOURCES[method].split()
