"""What users do with modules besides calling them: copy, average, checkpoint, fuse, convert, export, compile."""

import copy
import pickle
import warnings

import pytest
import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.model import ExponentialMovingAverage, convert_sync_batchnorm, revert_sync_batchnorm
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from acon_mm import AconA, AconB, AconC, AconFReLU, MetaAconC

BUILD = {
    "A": AconA,
    "B": lambda: AconB(init="paper"),
    "C": lambda: AconC(init="paper"),
    "channel": lambda: MetaAconC(init="paper"),
    "layer": lambda: MetaAconC(init="paper", generator="layer"),
    "pixel": lambda: MetaAconC(init="paper", generator="pixel"),
    "FReLU": AconFReLU,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def network(kind):
    """A convolution, a norm with statistics as after training, and an ACON whose own norms have some too."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), BUILD[kind]())
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(), m.running_var.uniform_(0.5, 2)
            nn.init.normal_(m.weight), nn.init.normal_(m.bias)
    return net


def images(batch=2, height=6, width=5):
    return torch.randn(batch, 3, height, width)


every_kind = pytest.mark.parametrize("kind", BUILD)


@every_kind
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"]
)
def test_copies(kind, duplicate):
    net = network(kind).eval()
    twin = duplicate(net)
    x = images()
    assert_close(twin(x), net(x), rtol=0, atol=0)
    with torch.no_grad():
        next(twin[2].parameters()).add_(1.0)
    assert not torch.equal(next(twin[2].parameters()), next(net[2].parameters()))


def test_copies_without_width():
    for twin in (copy.deepcopy(AconC()), pickle.loads(pickle.dumps(AconC()))):
        assert nn.Sequential(nn.Conv2d(3, 8, 1), twin)[1].num_channels == 8


@every_kind
def test_moving_average(kind):
    net = network(kind)
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


@every_kind
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing(kind, use_reentrant):
    net, x = network(kind), images().requires_grad_()
    plain = torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()])
    checkpoint(net, x, use_reentrant=use_reentrant).square().sum().backward()
    assert_close([x.grad, *(p.grad for p in net.parameters())], list(plain))


@every_kind
def test_amp_training_step(kind):
    net = network(kind)
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


@every_kind
def test_fuse_conv_bn(kind):
    net, x = network(kind).eval(), images()
    fused = fuse_conv_bn(copy.deepcopy(net))
    assert isinstance(fused[1], nn.Identity)
    assert_close(fused(x), net(x), rtol=1e-4, atol=1e-5)


@every_kind
@pytest.mark.parametrize("convert", [nn.SyncBatchNorm.convert_sync_batchnorm, convert_sync_batchnorm])
def test_sync_bn_and_back(kind, convert):
    net, x = network(kind), images(3)
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


def test_reverted_sync_bn_stands_a_single_value():
    net = revert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 8, 1), MetaAconC(norm_cfg=dict(type="SyncBN"))))
    assert net.train()(images(1)).isfinite().all()


# Export


@every_kind
def test_jit_trace(kind):
    net = network(kind).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(net, images())
    for x in (images(), images(1, 9, 4)):
        assert_close(traced(x), net(x))


@pytest.mark.parametrize(
    ("kind", "dynamo", "opset"),
    # The dynamo exporter takes seconds a model, so two stand for all.
    [*((kind, False, 17) for kind in BUILD), ("C", True, 18), ("channel", True, 18)],
)
def test_onnx(kind, dynamo, opset, tmp_path):
    """Equal to PyTorch at other sizes than the exported one, too."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    net, path = network(kind).eval(), tmp_path / "net.onnx"
    if dynamo:
        free = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
        sizes = dict(dynamic_shapes=({i: dim for i, dim in free.items()},))
    else:
        sizes = dict(input_names=["x"], dynamic_axes=dict(x={0: "n", 2: "h", 3: "w"}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (images(),), path, dynamo=dynamo, opset_version=opset, **sizes)
    model = onnx.load(path)
    assert model.opset_import[0].version == opset
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}  # standard operators alone
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for x in (images(), images(1, 9, 4)):
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_close(torch.from_numpy(y), net(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "training"), [("C", True), ("layer", True), ("pixel", True), ("channel", True), ("channel", False)]
)
def test_compile_without_graph_breaks(kind, training):
    torch.compiler.reset()
    # More than two pictures: a batch norm makes +-1 of any two values, which magnifies the last place.
    net, x = network(kind).train(training), images(8).requires_grad_()
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend="aot_eager")
    y, expected = compiled(x), net(x)
    assert_close(y, expected)
    got = torch.autograd.grad(y.square().mean(), [x, *compiled.parameters()])
    assert_close(got, torch.autograd.grad(expected.square().mean(), [x, *net.parameters()]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["C", "channel"])
@pytest.mark.parametrize("training", [False, True])
def test_compile_serves_all_picture_sizes(kind, training):
    """One graph, which is not compiled again for another picture or batch."""
    torch.compiler.reset()
    net = network(kind).train(training)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend=counter)
    compilations = []
    for size in ((2, 8, 6), (3, 9, 5), (4, 16, 16)):
        x, twin = images(*size).requires_grad_(training), copy.deepcopy(net)
        y = compiled(x)
        assert_close(y, twin(x), rtol=1e-4, atol=1e-5)
        if training:
            y.sum().backward()
        compilations.append(counter.frame_count)
    assert compilations[0] == compilations[-1] > 0


@pytest.mark.parametrize("kind", ["C", "channel"])
def test_compile_by_inductor(kind):
    torch.compiler.reset()
    net, x = network(kind).train(), images(8).requires_grad_()
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True)
    y, expected = compiled(x), net(x)
    assert_close(y, expected, rtol=1e-4, atol=1e-5)
    got = torch.autograd.grad(y.square().mean(), [x, *compiled.parameters()])
    assert_close(got, torch.autograd.grad(expected.square().mean(), [x, *net.parameters()]), rtol=1e-3, atol=1e-5)


@every_kind
def test_export(kind):
    net = network(kind).eval()
    free = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    exported = torch.export.export(net, (images(),), dynamic_shapes=({i: dim for i, dim in free.items()},)).module()
    for x in (images(), images(1, 9, 4)):
        assert_close(exported(x), net(x))
