"""What users do with modules besides calling them: copy, average, checkpoint, fuse, convert, export, compile."""

import copy
import inspect
import pickle
import warnings

import pytest
import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.model import ExponentialMovingAverage, convert_sync_batchnorm, revert_sync_batchnorm
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch.aot_autograd import make_boxed_func
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from acon_mm import AconA, AconB, AconC, AconFReLU, MetaAconC, compat
from acon_mm.ops import backend_for

BUILD = {
    "A": AconA,
    "B": lambda: AconB(init="paper"),
    "C": lambda: AconC(init="paper"),
    "channel": lambda: MetaAconC(init="paper"),
    "layer": lambda: MetaAconC(init="paper", generator="layer"),
    "pixel": lambda: MetaAconC(init="paper", generator="pixel"),
    "FReLU": AconFReLU,
}


def network(name):
    """A convolution, a norm with statistics as after training, and an ACON whose own norms have some too."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), BUILD[name]())
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(), m.running_var.uniform_(0.5, 2)
            nn.init.normal_(m.weight), nn.init.normal_(m.bias)
    return net


def images(batch=2, height=6, width=5):
    return torch.randn(batch, 3, height, width)


every_acon = pytest.mark.parametrize("name", BUILD)


@every_acon
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"]
)
def test_copies(name, duplicate):
    net = network(name).eval()
    twin = duplicate(net)
    x = images()
    assert_close(twin(x), net(x), rtol=0, atol=0)
    with torch.no_grad():
        next(twin[2].parameters()).add_(1.0)
    assert not torch.equal(next(twin[2].parameters()), next(net[2].parameters()))


def test_copies_without_channels():
    for twin in (copy.deepcopy(AconC()), pickle.loads(pickle.dumps(AconC()))):
        assert nn.Sequential(nn.Conv2d(3, 8, 1), twin)[1].num_channels == 8


@every_acon
def test_moving_average(name):
    net = network(name)
    average = ExponentialMovingAverage(net, momentum=0.25, update_buffers=True)
    average.update_parameters(net)  # the first only copies
    start = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        for p in net.parameters():
            p.add_(4.0)
    average.update_parameters(net)
    for name, p in average.module.named_parameters():
        assert_close(p.data, start[name] + 1.0)
    assert average.module.state_dict().keys() == net.state_dict().keys()


@every_acon
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing(name, use_reentrant):
    net, x = network(name), images().requires_grad_()
    plain = torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()])
    checkpoint(net, x, use_reentrant=use_reentrant).square().sum().backward()
    assert_close([x.grad, *(p.grad for p in net.parameters())], list(plain))


@every_acon
def test_amp_training_step(name):
    net = network(name)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = {k: v.clone() for k, v in net.named_parameters()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(images())
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    optimizer.step()
    for name, p in net[2].named_parameters(prefix="2"):
        assert p.dtype == p.grad.dtype == torch.float32 and p.grad.isfinite().all()
        if not name.endswith("bias"):  # the norm after a bias may cancel it
            assert not torch.equal(p, before[name]), name
    assert net[0].weight.grad.isfinite().all()


@every_acon
def test_fuse_conv_bn(name):
    net, x = network(name).eval(), images()
    fused = fuse_conv_bn(copy.deepcopy(net))
    assert isinstance(fused[1], nn.Identity)
    assert_close(fused(x), net(x), rtol=1e-4, atol=1e-5)


@every_acon
@pytest.mark.parametrize("convert", [nn.SyncBatchNorm.convert_sync_batchnorm, convert_sync_batchnorm])
def test_sync_bn_and_back(name, convert):
    net, x = network(name), images(3)
    expected, buffers = net.eval()(x), dict(net.named_buffers())
    parameters = dict(net.named_parameters())
    synced = convert(copy.deepcopy(net))
    assert any(isinstance(m, nn.SyncBatchNorm) for m in synced.modules())
    assert_close(synced.eval()(x), expected)
    reverted = revert_sync_batchnorm(synced)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in reverted.modules())
    assert_close(reverted.eval()(x), expected)
    assert_close(dict(reverted.named_parameters()), parameters, rtol=0, atol=0)
    assert_close(dict(reverted.named_buffers()), buffers, rtol=0, atol=0)
    assert_close(reverted.train()(x), net.train()(x))


def test_reverted_sync_bn_takes_a_single_value():
    """It uses its running statistics, as in evaluation."""
    net = nn.Sequential(nn.Conv2d(3, 8, 1), MetaAconC(norm_cfg=dict(type="SyncBN"), init="paper"))
    net[1].bn1.running_mean.normal_(), net[1].bn2.running_var.uniform_(0.5, 2)
    net, x = revert_sync_batchnorm(net), images(1)
    assert_close(net.train()(x), net.eval()(x))


# Export


@every_acon
def test_jit_trace(name):
    net = network(name).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(net, images())
    assert "acon_mm::" not in str(traced.inlined_graph)  # standard operators alone
    for x in (images(), images(1, 9, 4)):
        assert_close(traced(x), net(x))


@pytest.mark.parametrize(
    ("name", "dynamo", "opset"),
    # The dynamo exporter takes seconds a model, so it exports two of them.
    [
        *((name, False, 17) for name in BUILD),
        *(pytest.param(name, True, 18, marks=pytest.mark.slow) for name in ("C", "channel")),
    ],
)
def test_onnx(name, dynamo, opset, tmp_path):
    """Equal to PyTorch at other sizes than the exported one, too."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    net, path = network(name).eval(), tmp_path / "net.onnx"
    if dynamo:
        free = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
        sizes = dict(dynamic_shapes=({i: dim for i, dim in free.items()},))
    else:
        sizes = dict(input_names=["x"], dynamic_axes=dict(x={0: "n", 2: "h", 3: "w"}))
    # Older PyTorch has one exporter, and no such argument.
    exporter = dict(dynamo=dynamo) if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (images(),), path, opset_version=opset, **exporter, **sizes)
    model = onnx.load(path)
    assert model.opset_import[0].version == opset
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}  # standard operators alone
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for x in (images(), images(1, 9, 4)):
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_close(torch.from_numpy(y), net(x).detach(), rtol=1e-5, atol=1e-5)


# torch.compile

#: what a graph calls, besides PyTorch's operators
FORWARD, BACKWARD = "acon_mm.acon_c.default", "acon_mm.acon_c_backward.default"


def called_in(graph: torch.fx.GraphModule) -> list[str]:
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    return [target for target in targets if target.startswith("acon_mm.")]


@pytest.mark.slow
# Dynamo instantiates the autograd.Function of the pixel-wise generator, and PyTorch warns of that.
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "training"), [("C", True), ("layer", True), ("pixel", True), ("channel", True), ("channel", False)]
)
def test_compile_without_graph_breaks(name, training):
    """One graph, which calls our operators where they are compiled."""
    compat.reset_compiler()
    graphs = []

    def record(graph, _):
        graphs.append(called_in(graph))
        return make_boxed_func(graph.forward)

    # More than two pictures: a batch norm makes +-1 of any two values, which magnifies the last place.
    net, x = network(name).train(training), images(8).requires_grad_()
    backend = aot_autograd(fw_compiler=record, bw_compiler=record)
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend=backend)
    y, expected = compiled(x), net(x)
    assert_close(y, expected)
    got = torch.autograd.grad(y.square().mean(), [x, *compiled.parameters()])
    assert_close(got, torch.autograd.grad(expected.square().mean(), [x, *net.parameters()]), rtol=1e-4, atol=1e-5)
    operators = name != "pixel" and backend_for(x) == "compiled"
    assert graphs == ([[FORWARD], [BACKWARD]] if operators else [[], []])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["C", "channel"])
@pytest.mark.parametrize("training", [False, True])
def test_compile_serves_all_picture_sizes(name, training):
    """One graph, which is not compiled again for another picture or batch."""
    compat.reset_compiler()
    net = network(name).train(training)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend=counter)
    for size in ((2, 8, 6), (3, 9, 5), (4, 16, 16)):
        x, twin = images(*size).requires_grad_(training), copy.deepcopy(net)
        y = compiled(x)
        assert_close(y, twin(x), rtol=1e-4, atol=1e-5)
        if training:
            y.sum().backward()
    called = [called_in(graph) for graph in counter.graphs if graph.graph.find_nodes(op="placeholder")]
    assert called == [[FORWARD] if backend_for(x) == "compiled" else []]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["C", "channel"])
def test_compile_by_inductor(name):
    compat.reset_compiler()
    net, x = network(name).train(), images(8).requires_grad_()
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True)

    def step():
        y = compiled(x)
        return y, torch.autograd.grad(y.square().mean(), [x, *compiled.parameters()])

    (y, got), codes = torch._inductor.utils.run_and_get_code(step)
    expected = net(x)
    assert_close(y, expected, rtol=1e-4, atol=1e-5)
    assert_close(got, torch.autograd.grad(expected.square().mean(), [x, *net.parameters()]), rtol=1e-3, atol=1e-5)
    if backend_for(x) == "compiled":
        assert [f"torch.ops.{FORWARD}(" in code for code in codes] == [True, False]
        assert [f"torch.ops.{BACKWARD}(" in code for code in codes] == [False, True]


@every_acon
def test_export(name):
    net = network(name).eval()
    free = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    program = torch.export.export(net, (images(),), dynamic_shapes=({i: dim for i, dim in free.items()},))
    assert not called_in(program.graph_module)  # standard operators alone
    exported = program.module()
    for x in (images(), images(1, 9, 4)):
        assert_close(exported(x), net(x))
