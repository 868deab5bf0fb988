"""What the operations inside ACONs cost, for mmengine's counter, which mm's ``get_flops.py`` uses.

mmengine counts a multiply-add of a convolution as one operation, and no activations at all. Here each product, sum and
difference of an element counts as one operation too, and a sigmoid as four: negate, exponential, add, divide. Only
operations in our own source are counted, so models without ACONs have the counts that they had.
"""

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

SIGMOID = 4

_OURS = tuple(f"{Path(__file__).parents[1] / folder}/" for folder in ("layers", "ops"))


def _handler(output: int, of_input: int = 0) -> Callable[[Sequence[Any], Sequence[Any]], int]:
    """A handler of an operator: so many operations for each element of its output, and of its first input."""

    def count(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        source = outputs[0].node().sourceRange()
        if not any(folder in source for folder in _OURS):
            return 0
        return output * _size(outputs[0]) + (of_input * _size(inputs[0]) if of_input else 0)

    return count


def _size(value: Any) -> int:
    return prod(value.type().sizes() or ())


#: by the operator's name in a trace
HANDLERS = {
    "aten::mul": _handler(1),
    "aten::add": _handler(1),
    "aten::sub": _handler(1),
    "aten::sigmoid": _handler(SIGMOID),
    "aten::silu": _handler(SIGMOID + 1),
    "aten::mean": _handler(0, of_input=1),
    "aten::sum": _handler(0, of_input=1),
}
