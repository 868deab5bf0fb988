"""The sites of a module whose own methods activate, as reading them shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import unwrap
from types import CodeType
from typing import Any

from torch import nn

from ..compat import strict_zip
from .activations import GATE
from .channels import Channels, output_channels
from .held import bind_again, held_for_good
from .reading import Reading, Visit
from .rewrite import Change, MethodChange, method_changes, rewritten_class
from .source import Source, UnreadableError
from .values import Stored

#: why a call of that :attr:`Visit.kind` cannot be changed
_PROBLEMS = {
    "hidden": "it is given to another function",
    "given": "it is an argument, for which a caller may give another",
    "outside": "a function whose source cannot be read calls it",
    "decorator": "a decorator calls it",
    "overwritten": "its input, which its gradient needs, is changed in place",
}


@dataclass(eq=False)
class OwnSite:
    """A call of an activation, in the methods of one module.

    Attributes:
        path: the name that the activation has or gets in the module.
        visits: the calls in the source; several, if different ways lead to one place.
        rewritten: whether the source changes, because it calls the same activation elsewhere too, or a function.
        problem: why it cannot be converted; None if it can.
    """

    path: str
    visits: list[Visit]
    rewritten: bool
    problem: str | None = None

    @property
    def current(self) -> nn.Module | None:
        """The activation that is there now, or a module that computes the same; None if only a run tells."""
        return self.visits[0].callee

    @property
    def present(self) -> nn.Module:
        """What is there until the new activation comes."""
        return nn.Identity() if self.current is None else self.current

    @property
    def where(self) -> str:
        visit = self.visits[0]
        return visit.source.where(visit.node)

    @property
    def layer(self) -> nn.Module | None:
        """The last layer with weights before the site."""
        return next((visit.value.layer for visit in self.visits if visit.value.layer is not None), None)

    def channels(self) -> set[Channels]:
        """The channels that the source shows; several, if the site meets several."""
        return {channels for visit in self.visits if (channels := visit.value.resolve()) is not None}


class OwnSites:
    """The sites of one module, and how its class changes.

    Args:
        module: the module.
        reading: what :func:`~acon_mm.convert.reading.read` found in it.
        shared: names of activations in it that other modules call too.
        holders: modules whose attributes hold methods of it.
    """

    def __init__(
        self, module: nn.Module, reading: Reading, shared: set[str], holders: Sequence[nn.Module] = ()
    ) -> None:
        self.module = module
        self.reading = reading
        self._held = held_for_good(module)
        self._holders = holders
        self.kept: dict[str, str] = {}
        visits = [visit for visit in reading.visits if not self._keeps(visit)]
        self._shared = {*shared, *(visit.path for visit in reading.visits if visit not in visits)}
        calls: dict[tuple, list[Visit]] = {}
        for visit in visits:
            calls.setdefault((visit.place, *((id(loop), i) for loop, i in visit.loops)), []).append(visit)
        uses: dict[str | None, set[tuple]] = {}
        for key, found in calls.items():
            for visit in found:
                uses.setdefault(visit.path, set()).add(key)
        several = {path for path, keys in uses.items() if path is None or len(keys) > 1 or path in self._shared}
        several |= {visit.path for visit in visits if self._is_changed(visit)}
        changed = dict.fromkeys(visit.place for visit in visits if visit.path in several)
        names = dict(strict_zip(changed, self._names(list(changed), visits)))
        self.sites: list[OwnSite] = []
        known = output_channels(module)  # of a norm or convolution that activates
        in_place: dict[str, OwnSite] = {}
        for found in calls.values():
            place = found[0].place
            if place in names:
                path = ".".join((names[place], *(str(i) for _, i in found[0].loops)))
                self.sites.append(OwnSite(path, found, True, self._problem(found)))
            else:
                for visit in found:
                    assert visit.path is not None
                    if visit.path not in in_place:
                        in_place[visit.path] = OwnSite(visit.path, [], False)
                        self.sites.append(in_place[visit.path])
                    in_place[visit.path].visits.append(visit)
        for site in self.sites:
            site.problem = site.problem or self._problem_of_iteration(site)
            found_channels = site.channels()
            if not found_channels and known is not None:
                site.visits[0].value.channels = known
            if len(found_channels) > 1 and site.problem is None:
                numbers = " and ".join(
                    sorted(f"{each.num_channels} at dimension {each.channel_dim}" for each in found_channels)
                )
                site.problem = f"it meets different numbers of channels ({numbers}) at {site.where}"

    def _keeps(self, visit: Visit) -> bool:
        """Whether the activation stays. ``relu6(x + 3) / 6`` is a sigmoid in pieces."""
        if visit.kind == "weighted":
            self.kept[ast.unparse(visit.node)] = "its slope is a parameter of its own"
            return True
        if isinstance(visit.value, Stored):  # as the weights of a weighted sum
            self.kept[visit.path or ast.unparse(visit.node)] = "its input is a parameter or buffer, no feature map"
            return True
        x = visit.node.args[0] if isinstance(visit.node, ast.Call) and visit.node.args else None
        if not (isinstance(visit.callee, nn.ReLU6) and _adds_3(x)):
            return False
        self.kept[visit.path or ast.unparse(visit.node)] = GATE
        return True

    @staticmethod
    def _is_changed(visit: Visit) -> bool:
        """Whether another activation needs another call: it has no names of arguments, and changes nothing in place."""
        if visit.kind == "overwritten":
            return True
        node = visit.node
        return isinstance(node, ast.Call) and (id(node) in visit.source.discarded or not node.args)

    def _names(self, places: list[tuple[Source, int]], visits: list[Visit]) -> Iterator[str]:
        """``act``, or ``act1``, ``act2``, ...; ``acts`` if there is one place, in a loop over layers."""
        looped = {visit.place for visit in visits if visit.loops}
        for number, place in enumerate(places, 1):
            name = f"act{number}" if len(places) > 1 else "acts" if place in looped else "act"
            while hasattr(self.module, name):
                name += "_"
            yield name

    def _problem(self, visits: list[Visit]) -> str | None:
        visit = visits[0]
        where, loops = visit.source.where(visit.node), [loop for loop, _ in visit.loops]
        kinds = dict.fromkeys(type(each.callee).__name__ for each in visits if each.callee is not None)
        if len(kinds) > 1:
            return f"{where} calls one of several: {', '.join(kinds)}"
        if not visit.bound:
            return f"a function outside of the class calls it, at {where}"
        if all(each.training is False for each in visits):
            return f"it is called in evaluation or without gradients alone, so that nothing would train it, at {where}"
        if visit.place in self.reading.others:
            return f"{where} calls other layers as well"
        if visit.kind in _PROBLEMS:
            return f"{_PROBLEMS[visit.kind]}, at {where}"
        if any(
            [loop for loop, _ in other.loops] != loops for other in self.reading.visits if other.place == visit.place
        ):
            return f"{where} is in a loop over layers, and is called outside of it as well"
        try:
            if isinstance(visit.node, ast.Call):
                visit.source.call_instead(visit.node, "_")
        except UnreadableError as error:
            return str(error)
        if visit.source.function in self._held:
            return f"{where} is held by an attribute, which keeps its present code"
        return None

    def _problem_of_iteration(self, site: OwnSite) -> str | None:
        """The problem of a site whose activation the module meets in other ways than by calls."""
        asked = [place for visit in site.visits if (place := self.reading.asked.get(visit.path)) is not None]
        if asked:
            return f"{asked[0]} depends on what it is: on its type, or on an attribute of it"
        if site.rewritten and self.reading.iterated:
            return (
                f"{self.reading.iterated} takes the layers of the module one after the other, and a new activation at "
                f"{site.where} would be one of them"
            )
        return None

    def changes(self, chosen: set[str]) -> tuple[MethodChange, ...]:
        """The changes of the module's methods, if the sites named in ``chosen`` are converted.

        Raises:
            UnreadableError: a method cannot be changed.
        """
        found: dict[Source, list[Change]] = {}
        for site in self.changed(chosen):
            visit = site.visits[0]
            source, name = visit.source, f"{visit.source.owner}.{site.path.partition('.')[0]}"
            for loop, _ in visit.loops:
                counter = f"_index{source.number(loop)}"
                name += f"[{counter}]"
                found.setdefault(source, []).append(Change(source.number(loop), "count", counter))
            found.setdefault(source, []).append(Change(visit.place[1], visit.kind, name))
        supers = [(source, number, Source.of(called)) for (source, number), called in self.reading.supers.items()]
        return method_changes(type(self.module), found, supers)

    def changed(self, chosen: set[str]) -> list[OwnSite]:
        """The sites at which the source changes: the chosen ones, and others where the present activation is known."""
        places = {site.visits[0].place for site in self.sites if site.path in chosen and site.rewritten}
        return (
            [
                site
                for site in self.sites
                if site.rewritten
                and site.problem is None
                and (site.visits[0].place in places or self._all_known(site.visits[0].place))
            ]
            if places
            else []
        )

    def _all_known(self, place: tuple[Source, int]) -> bool:
        return all(site.current is not None for site in self.sites if site.visits[0].place == place)

    def new_class(self, chosen: set[str]) -> type[nn.Module]:
        """The class that the module gets. It is the present class if nothing in it changes.

        Raises:
            UnreadableError: a method cannot be changed.
        """
        changes = self.changes(chosen)
        return rewritten_class(type(self.module), changes) if changes else type(self.module)  # type: ignore[arg-type]

    def apply(self, cls: type[nn.Module], chosen: set[str]) -> None:
        """Give the module its new class, and the present activation at each site. Nothing in here can fail."""
        if cls is not type(self.module):
            self.module.__class__ = cls
            for other in self._holders:
                bind_again(other, self.module)
        for site in self.changed(chosen):
            *parents, leaf = site.path.split(".")
            holder: Any = self.module
            for parent in parents:
                if parent not in holder._modules:
                    holder.add_module(parent, nn.ModuleList())
                holder = holder._modules[parent]
            while parents and isinstance(holder, nn.ModuleList) and len(holder) < int(leaf):
                holder.append(site.present)
            if leaf not in holder._modules:
                holder.add_module(leaf, site.present)

    def remove_unused(self, chosen: set[str]) -> None:
        """Remove the activations that several sites used and none uses now."""
        changed = self.changed(chosen)
        now = {id(self.module.get_submodule(site.path)) for site in changed}
        others = {visit.path for site in self.sites if site not in changed for visit in site.visits}
        replaced = {site.visits[0].source.function.__code__ for site in changed}
        for path, callee in {visit.path: visit.callee for site in changed for visit in site.visits}.items():
            if (
                path is None
                or path not in self.module._modules
                or path in others
                or path in self._shared
                or id(callee) in now
            ):
                continue
            if not any(_mentions(code, path) for code in _codes(type(self.module)) if code not in replaced):
                delattr(self.module, path)


def _adds_3(x: ast.expr | None) -> bool:
    """``x + 3``, ``3 + x`` or ``x.add(3)``."""
    parts: list[Any] = [x.left, x.right] if isinstance(x, ast.BinOp) and isinstance(x.op, ast.Add) else []
    if isinstance(x, ast.Call) and getattr(x.func, "attr", None) in ("add", "add_"):
        parts = x.args
    return any(isinstance(each, ast.Constant) and each.value == 3 for each in parts)


def _codes(cls: type) -> Iterator[CodeType]:
    """The methods of a class."""
    for base in cls.__mro__:
        if not base.__module__.startswith("torch."):
            for name, value in vars(base).items():
                code = getattr(unwrap(value) if callable(value) else value, "__code__", None)
                if code is not None and name != "__init__":
                    yield code


def _mentions(code: CodeType, name: str) -> bool:
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return name in code.co_names or name in code.co_consts or any(_mentions(each, name) for each in inner)
