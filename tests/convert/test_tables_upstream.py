"""Each entry of the tables names methods that exist, and its rewriting of them fits the installed versions."""

from importlib import import_module, metadata

import pytest

from acon_mm.convert.hosts import Host, _subclass, host_of_class

#: CLRNet, a lane detector: only the maintained fork has it
FORK_ONLY = {
    "mmdet.models.dense_heads.clr_head.clr_head.CLRHead.forward",
    "mmdet.models.dense_heads.clr_head.utils.roi_gather.ROIGather.forward",
    "mmdet.models.necks.clrnet_fpn.CLRFPN.forward",
}
IS_FORK = "onedl-mmdetection" in metadata.packages_distributions()["mmdet"]
INSTALLED = sorted(set(Host._by_method) - (set() if IS_FORK else FORK_ONLY))


def upstream_class(entry: str) -> type:
    module, name, _ = entry.rsplit(".", 2)
    return getattr(import_module(module), name)


@pytest.mark.parametrize("entry", INSTALLED)
def test_upstream_has_the_method(entry):
    """Its class defines it itself, so that the entry is found for it."""
    cls = upstream_class(entry)
    method = vars(cls)[entry.rpartition(".")[2]]
    assert f"{method.__module__}.{method.__qualname__}" == entry
    assert host_of_class(cls) is Host._by_method[entry]


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

    tables = {cls for cls in entries(Host) if cls.__module__.startswith("acon_mm.convert.tables")}
    made_at_run_time = {cls for cls in tables if "upstream" not in vars(cls)}
    assert tables - made_at_run_time == set(Host._by_method.values())
    assert all(len(vars(cls)["upstream"]) > 0 for cls in tables - made_at_run_time)
