"""Python's own functions: their results, where those depend on the module alone."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from ...layers import Acon
from ..values import Value, elementwise
from .own_functions import activating_functions
from .things import Choice, Closure, Items, Method, OnTheFly, Part, Partial, Ref, Super, Text

COMPUTED = (
    *(len, range, list, tuple, set, frozenset, reversed, sorted, getattr, hasattr, isinstance, issubclass, callable),
    *(int, float, bool, str, abs, round, min, max, sum, any, all, vars),
)
_UNKNOWN = (Value, Choice, Method, Ref, Closure, OnTheFly, Super, Partial)


class _NotKnown(Exception):
    pass


class BuiltinsComputed(Part):
    """Computes them."""

    def _builtin(self, function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if function is getattr and len(args) >= 2:
            return self._getattr(*args)
        if function in (hasattr, isinstance) and len(args) == 2 and not isinstance(args[0], (Value, Choice)):
            try:
                found = function(args[0].module if isinstance(args[0], Ref) else args[0], args[1])
                if function is hasattr or found is not issubclass(Acon, args[1]):
                    self._asked(args[0])
                return found
            except Exception:
                return Value()
        if function is callable and args and isinstance(args[0], (Ref, OnTheFly, Closure, Partial)):
            return True
        if function is vars and isinstance(args[0], Ref):
            return {name: self._wrapped(each) for name, each in vars(args[0].module).items()}
        if function in (list, tuple, reversed, len, sum) and len(args) == 1:
            parts = self._elements(args[0])
            if parts is None:
                return Method(args[0], "len") if function is len else Value()
            if function is sum and any(isinstance(each, Value) for each in parts):
                return elementwise(parts)
            if function is not sum:
                in_order = parts[::-1] if function is reversed else parts
                return len(parts) if function is len else self._made(Items(in_order))
        if function is range and any(isinstance(each, Method) for each in args):
            return Method(args[0], "range")
        try:
            return self._wrapped(function(*map(self._plain, args), **{k: self._plain(v) for k, v in kwargs.items()}))
        except Exception:
            return Value()

    def _getattr(self, owner: Any, name: Any, *default: Any) -> Any:
        if isinstance(name, str):
            if isinstance(owner, Ref) and default and not hasattr(owner.module, name) and name not in self.assigned:
                return default[0]
            return Method(owner, name) if isinstance(owner, Value) else self._attribute(owner, name)
        if not isinstance(owner, Ref):
            return Value()
        pattern = name.pattern if isinstance(name, Text) else "*"
        names = [name for name, _ in owner.module.named_children()]
        if owner.module is self.module:
            names += [name for name, _ in activating_functions(type(self.module))]
        found = [self._attribute(owner, each) for each in dict.fromkeys(names) if fnmatchcase(each, pattern)]
        return Choice(found) or Value()

    def _plain(self, value: Any) -> Any:
        """A value that reading knows, as Python has it.

        Raises:
            _NotKnown: it does not know it, or a part of it.
        """
        if isinstance(value, _UNKNOWN) or not self._is_known(value):
            raise _NotKnown
        return list(map(self._plain, value)) if isinstance(value, Items) else value
