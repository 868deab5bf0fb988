"""Meta-ACON-C with its generator in one operator computes what float64 autograd of PyTorch's functions computes."""

import pytest
import torch

from acon_mm.compat import strict_zip
from acon_mm.ops.generator import Generator
from helpers.exactness import assert_create_graph_changes_nothing, layouts
from helpers.kernels import NEEDS_COMPILED, NORMS, buffers, fused, meta_inputs, to, unfused, with_learned

pytestmark = NEEDS_COMPILED


def torch_reference(tensors, generator):
    return torch.ops.acon_mm.meta_acon_c_reference(*tensors, *generator, 1)


def test_names_of_the_values_are_those_of_the_schema():
    schema = torch.ops.acon_mm.meta_acon_c.default._schema
    names = [argument.name for argument in schema.arguments]
    assert names == ["x", "p1", "p2", *Generator._fields, "channel_dim"]
    maybe = {argument.name for argument in schema.arguments if "Optional" in str(argument.type)}
    assert maybe == {name for name in Generator._fields if name.startswith("bn")}
    moved = {argument.name for argument in schema.arguments if argument.alias_info is not None}
    assert moved == {name for name in Generator._fields if "running" in name or "num_batches" in name}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("shape", "hidden"),
    [((1, 5, 3, 3), 16), ((2, 64, 9, 7), 16), ((3, 2048, 2, 2), 128), ((7, 700, 5), 100), ((16, 33, 2, 2, 2), 16)],
)
def test_values_and_gradients(shape, hidden, norm):
    if norm == "batch" and shape[0] == 1:
        shape = (4, *shape[1:])
    tensors, generator = meta_inputs(shape, hidden, norm, torch.float32)
    wide, wide_generator = to(tensors, generator, torch.float64)
    y, wanted = fused(tensors, generator), unfused(wide, wide_generator)
    grad = torch.randn(shape)
    grads = torch.autograd.grad(y, [*tensors, *generator.learned()], grad)
    grads_wanted = torch.autograd.grad(wanted, [*wide, *wide_generator.learned()], grad.double())
    # The gradients of biases before a norm of the batch are 0; the others are of about the same size.
    scale = max(t.abs().max().item() for t in grads_wanted[3:])
    for ours, theirs in strict_zip([y, *grads], [wanted, *grads_wanted]):
        assert ours.shape == theirs.shape and ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-4 * scale)
    for ours, theirs in strict_zip(buffers(generator), buffers(wide_generator)):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_second_derivative(norm):
    tensors, generator = meta_inputs((3, 4, 2, 3), 2, norm, torch.float64)

    def y(*inputs):
        # The running statistics move in training, but then the result does not depend on them.
        return fused(inputs[:3], with_learned(generator, inputs[3:]))

    torch.testing.assert_close(fused(tensors, generator), unfused(*to(tensors, generator, torch.float64)))
    assert torch.autograd.gradcheck(y, (*tensors, *generator.learned()))
    # Fast: one random projection of the second derivatives in place of all of them.
    assert torch.autograd.gradgradcheck(y, (*tensors, *generator.learned()), fast_mode=True)
    assert_create_graph_changes_nothing(fused(tensors, generator), [*tensors, *generator.learned()])


def test_second_derivative_uses_the_running_statistics_of_its_forward():
    tensors, generator = meta_inputs((3, 4, 2, 3), 2, "running", torch.float64)
    gradients = []
    for change in (0, 1):
        y = fused(tensors, generator)
        generator.bn1_running_mean.add_(change), generator.bn2_running_var.add_(change)
        gradients.append(torch.autograd.grad(y.square().sum(), tensors, create_graph=True))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("function", [fused, torch_reference], ids=["kernels", "reference"])
def test_running_statistics_take_no_batch_that_is_not_finite(function, value):
    """The output is not finite, so the fault shows. 1e30 is finite, but its variance is not."""
    for dtype in (torch.float32, torch.float64):
        tensors, generator = meta_inputs((3, 21, 2, 3), 18, "batch", dtype)
        before = [t.clone() for t in buffers(generator)]
        with torch.no_grad():
            tensors[0][0, 2] = value
        y = function(tensors, generator)
        if value != 1e30:
            assert y[0].isnan().all()
        if value != 1e30 or dtype == torch.float32:
            assert all(torch.equal(*pair) for pair in strict_zip(buffers(generator)[:2], before[:2]))
        assert all(t.isfinite().all() for t in buffers(generator))
        function(meta_inputs((3, 21, 2, 3), 18, "batch", dtype)[0], generator)  # the next one moves them
        assert not any(torch.equal(*pair) for pair in strict_zip(buffers(generator), before))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "flipped strides"])
def test_layouts(layout):
    tensors, generator = meta_inputs((2, 5, 7, 9), 4, "none", torch.float64)
    tensors[0] = layouts((2, 5, 7, 9), torch.float64)[layout][0].requires_grad_()
    y, wanted = fused(tensors, generator), unfused(tensors, generator)
    torch.testing.assert_close(y, wanted)
    grad, inputs = torch.randn_like(y), [*tensors, *generator.learned()]
    torch.testing.assert_close(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(wanted, inputs, grad))


def test_gradient_only_where_asked():
    tensors, generator = meta_inputs((3, 4, 2, 3), 2, "batch", torch.float64)
    inputs = [*tensors, *generator.learned()]
    wanted = torch.autograd.grad(fused(tensors, generator).square().sum(), inputs)
    for index, t in enumerate(inputs):
        t.requires_grad_(index in (1, 9))
    for create_graph in (False, True):
        y = fused(tensors, generator)
        grads = torch.autograd.grad(y.square().sum(), [inputs[1], inputs[9]], create_graph=create_graph)
        torch.testing.assert_close(grads, (wanted[1], wanted[9]))


def test_tensors_that_kernels_cannot_read():
    """Batches of gradients, and tensors of the meta device."""
    tensors, generator = meta_inputs((3, 4, 2, 3), 2, "batch", torch.float64)
    inputs = [*tensors, *generator.learned()]
    y = fused(tensors, generator)
    grads = torch.randn(5, *y.shape, dtype=y.dtype)
    batched = torch.autograd.grad(y, inputs, grads, is_grads_batched=True, retain_graph=True)
    for index, grad in enumerate(grads):
        one = torch.autograd.grad(y, inputs, grad, retain_graph=True)
        torch.testing.assert_close([b[index] for b in batched], list(one))
    y = fused(*to(tensors, generator, "meta"))
    assert y.is_meta and y.shape == tensors[0].shape


@pytest.mark.parametrize(
    ("shape", "norm", "change", "text"),
    [
        (
            (2, 4, 2, 3),
            "none",
            "bn1_weight",
            "all five tensors of bn1 and of bn2, or None for all .*, got 1 and 0",
        ),
        ((2, 4, 2, 3), "none", "fc1_weight", "with 2 outputs takes .*, Float on cpu, got Double"),
        ((2, 4, 2, 3), "batch", "bn2_running_var", "with 4 outputs takes .*, Float on cpu, got Double"),
        ((1, 4, 2, 3), "batch", None, "batch statistics need two samples or more, got 1"),
        ((0, 4, 2, 3), "batch", None, "batch statistics need two samples or more, got 0"),
    ],
)
def test_bad_values_are_named_and_change_nothing(shape, norm, change, text):
    tensors, generator = meta_inputs(shape, 2, norm, torch.float32)
    if change:
        value = getattr(generator, change)
        generator = generator._replace(**{change: torch.ones(2) if value is None else value.detach().double()})
    before = [t.clone() for t in buffers(generator)]
    with pytest.raises(RuntimeError, match=text):
        fused(tensors, generator)
    torch.testing.assert_close(buffers(generator), before, rtol=0, atol=0)
