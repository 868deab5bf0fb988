"""The list of all checks of correctness."""

from functools import partial
from itertools import product

from . import cuda_checks, edges, gradients, inputs, kinds, memory_checks, training_checks, values
from .checks import Check, Setting

#: for every kind
_EACH = (
    values.without_gradients,
    values.repeatable,
    gradients.frozen,
    gradients.layouts_of_gradients,
    gradients.inputs_unchanged,
    gradients.double_backward,
    edges.empty,
    cuda_checks.streams,
    cuda_checks.graph_forward,
    gradients.numerical,
)
#: for the main kinds
_MAIN = (
    cuda_checks.graph_training_step,
    cuda_checks.other_device,
    memory_checks.made_again,
    memory_checks.norm_before,
    training_checks.replicated,
    training_checks.moved,
    training_checks.mixed_precision,
    training_checks.compiled,
)
_ONCE = (edges.infinite, edges.wrong_arguments, edges.mixed_devices, cuda_checks.large, cuda_checks.large_mean)


def all_checks(setting: Setting, with_modules: bool) -> list[Check]:
    """The checks, from the simple to the costly; ``with_modules``: of the modules, and not only of ``acon_mm/ops``."""
    every = kinds.of_this_machine(with_modules)
    main = kinds.main_of(every)[: 2 if setting.quick else None]
    checks = [Check(check.__name__, partial(check, setting)) for check in _ONCE]
    checks += [
        Check(f"values[{kind.name}, {str(dtype)[6:]}]", partial(values.values, setting, kind, dtype))
        for kind in every
        for dtype in inputs.DTYPES
    ]
    for group, some in ((_EACH, every), (_MAIN, main)):
        for check, kind in product(group, some):
            checks.append(Check(f"{check.__name__}[{kind.name}]", partial(check, setting, kind)))
    return checks
