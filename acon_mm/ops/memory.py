"""What an ACON made is not kept for backward: it is made again from the ACON's input, or from that of the norm before.

A convolution keeps its input for backward. ReLU in place needs no more than that; ACON needs its own input as well,
which would be a second tensor. So where another operator keeps the output of an ACON, it gets a recipe in its place:
the ACON's input and parameters. Backward makes the output again by one pass, with the same bits. A network with ACON
then keeps as much as its ReLU twin.

This happens by itself, in the compiled library (``csrc/recompute.cpp``). PyTorch does not tell when an output is saved.
So each call of an ACON looks at the graph before its input, back to the ACONs before it. What comes after the last ACON
is seen by :func:`recompute_outputs`. Models that are built from a config call it after each head and on the loss
(:mod:`acon_mm.patches`); a training loop of your own calls it on its loss.

An output is kept as before

- where it is smaller than 256 KiB, which costs more time than it saves memory;
- where it is kept by another operator than a convolution, a linear layer, pooling, a product, or a batch, group or
  layer norm;
- where it was changed in place, seen by autograd or not;
- where hooks on saved tensors decide what is kept, as in checkpointing, and under ``torch.compile``;
- where the ACON's parameters are made out of others, as by ``DataParallel``;
- within :func:`keep_outputs`, and with the environment variable ``ACON_MM_KEEP_OUTPUTS=1``.

Where a batch norm is right before an ACON, both are one operator on a CPU (``csrc/norm_before.cpp``). Only the norm's
input is kept, and backward passes over it as often as for the norm alone. The gradients are the same up to rounding.
The output overwrites what the norm made. So this happens

- with ``inplace=True``: OpenMMLab's ConvModule sets it, and an ACON takes it over from the activation that it replaces;
- where one variable of the caller has the norm's output and nobody else: no hook of the norm, of the ACON or of all
  modules, no other operator, no second name. Then nobody can tell the difference.

Both run one by one in the cases above too; after other norms and SyncBatchNorm; where the norm's output has hooks, or a
gradient that somebody asked for; and on a GPU.

With ``act_cfg=dict(..., memory='least')``, an ACON's input is made again too, where the layer before keeps what it
takes: the output of a batch norm from the norm's input, and the sum at the end of a residual block from its two
summands. The network then keeps less than its ReLU twin, for a few more passes over memory. The input is made again up
to rounding. It is kept as before

- in all the cases above;
- after other layers than batch norms (SyncBatchNorm too), and after a norm whose weight or bias is frozen;
- where three sums before it are made again already, one out of the other;
- where it was changed in place. What does not count: a change of a summand, under ``no_grad`` or by ``.data``, between
  its norm and the sum.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..compat import is_compiling
from .backends import fuses


def recompute_outputs(*results: Tensor) -> None:
    """Drop the outputs of ACONs that the graphs of ``results``, as of a loss, keep after the last call of an ACON."""
    if fuses("cpu") and not is_compiling():
        torch.ops.acon_mm.recompute_outputs.default(results)


def recompute_after_heads(model: nn.Module) -> None:
    """Let each head of OpenMMLab's, which has ``loss_by_feat``, call :func:`recompute_outputs` after its ``forward``.

    A loss may take more memory than what a step keeps, so it would be too late there.
    """
    for module in model.modules():
        if hasattr(module, "loss_by_feat") and _recompute_outputs_of_head not in module._forward_hooks.values():
            module.register_forward_hook(_recompute_outputs_of_head)


def _recompute_outputs_of_head(head: nn.Module, inputs: Any, outputs: Any) -> None:
    recompute_outputs(*_tensors_in(outputs))


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors_in(each)


@contextmanager
def least(x: Tensor) -> Iterator[None]:
    """ACONs of ``x`` that are called within, in this thread, do not keep it where it can be made again."""
    if not fuses("cpu") or x.grad_fn is None or not torch.is_grad_enabled():
        yield
        return
    before = torch.ops.acon_mm.set_least.default(True)
    try:
        _offer_sync_norms(x)
        yield
    finally:
        torch.ops.acon_mm.set_least.default(before)


def _offer_sync_norms(x: Tensor) -> None:
    """Tell the library what the SyncBatchNorms before ``x`` keep: their nodes are Python's, which it cannot read."""
    node: Any = x.grad_fn
    nodes = (node, *(each for each, _ in node.next_functions))
    for place, norm in enumerate(nodes):
        if type(norm).__name__ != "SyncBatchNormBackward" or not torch.ops.acon_mm.saves_plainly.default():
            continue
        _, weight, bias = (getattr(each, "variable", None) for each, _ in norm.next_functions[:3])
        if weight is not None and bias is not None:
            own_input, _, mean, rstd = norm.saved_tensors[:4]
            torch.ops.acon_mm.offer_norm.default(x, place - 1, [own_input.detach(), weight, bias, mean, rstd])


@contextmanager
def keep_outputs() -> Iterator[None]:
    """Outputs of ACONs that are computed within are kept, in all threads, as PyTorch's own operators do."""
    before = _set_recomputation(False)
    try:
        yield
    finally:
        _set_recomputation(before)


def _set_recomputation(wanted: bool) -> bool:
    return torch.ops.acon_mm.set_recomputation.default(wanted) if fuses("cpu") else False


_set_recomputation(os.environ.get("ACON_MM_KEEP_OUTPUTS", "") in ("", "0"))
