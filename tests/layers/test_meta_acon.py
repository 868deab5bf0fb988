"""Meta-ACON-C: the generators against the authors' form, their options, and norms that get one value or none."""

import copy
import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize
from torch.testing import assert_close

from acon_mm import MetaAconC
from acon_mm.compat import strict_zip
from acon_mm.layers import inner
from acon_mm.ops import cpu
from helpers.by_hand import NORMS, meta_by_hand
from helpers.kernels import NEEDS_COMPILED


class Authors(nn.Module):
    """Meta-ACON-C as the authors' release computes it."""

    def __init__(self, channels, r):
        super().__init__()
        hidden = max(r, channels // r)
        self.p1 = nn.Parameter(torch.randn(1, channels, 1, 1))
        self.p2 = nn.Parameter(torch.randn(1, channels, 1, 1))
        self.fc1, self.bn1 = nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden)
        self.fc2, self.bn2 = nn.Conv2d(hidden, channels, 1), nn.BatchNorm2d(channels)

    def beta(self, x):
        pooled = x.mean(dim=2, keepdims=True).mean(dim=3, keepdims=True)
        return torch.sigmoid(self.bn2(self.fc2(self.bn1(self.fc1(pooled)))))

    def forward(self, x):
        d = self.p1 * x - self.p2 * x
        return d * torch.sigmoid(self.beta(x) * d) + self.p2 * x


class AuthorsLayer(Authors):
    def beta(self, x):
        return torch.sigmoid(x.sum(dim=(1, 2, 3), keepdims=True))


class AuthorsPixel(Authors):
    def beta(self, x):
        return torch.sigmoid(x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("generator", "form"), [("channel", Authors), ("layer", AuthorsLayer), ("pixel", AuthorsPixel)]
)
def test_meta_equals_the_authors_form(generator, form, training):
    theirs = form(6, r=2).double().train(training)
    theirs.bn1.running_mean.normal_(), theirs.bn2.running_var.uniform_(0.5, 2)
    ours = MetaAconC(6, generator=generator, r=2, init="paper").double().train(training)
    ours.load_state_dict(theirs.state_dict(), strict=generator == "channel")
    x = torch.randn(4, 6, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    named = dict(theirs.named_parameters())
    names = [name for name, _ in ours.named_parameters()]
    got = torch.autograd.grad((ours(x) * weight).sum(), [x, *ours.parameters()])
    want = torch.autograd.grad((theirs(x) * weight).sum(), [x, *(named[name] for name in names)])
    for g, w in strict_zip(got, want):
        assert_close(g, w.view_as(g))
    assert_close(ours(x), theirs(x))
    if generator == "channel":
        for name in ("bn1", "bn2"):
            assert_close(getattr(ours, name).state_dict(), getattr(theirs, name).state_dict())


@pytest.mark.parametrize(("channels", "r", "hidden"), [(64, 16, 16), (512, 16, 32), (8, 16, 16), (8, 2, 4)])
def test_hidden_channels(channels, r, hidden):
    module = MetaAconC(channels, r=r)
    assert module.fc1.weight.shape == (hidden, channels, 1, 1)
    assert module.fc2.weight.shape == (channels, hidden, 1, 1)


@pytest.mark.parametrize("generator", ["channel", "layer", "pixel"])
def test_beta_scale_multiplies_beta(generator):
    one = MetaAconC(4, generator=generator, init="paper", norm_cfg=None, beta_scale=1.0).double()
    nn.init.ones_(one.p1), nn.init.zeros_(one.p2)
    three = MetaAconC(4, generator=generator, norm_cfg=None, beta_scale=3.0).double()
    three.load_state_dict({name: value for name, value in one.state_dict().items() if name != "_extra_state"})
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    # f(x) = x sigmoid(beta x)
    assert_close((three(x) / x).logit(), 3 * (one(x) / x).logit())


def randomize(module: MetaAconC) -> MetaAconC:
    """Norms as after training: with statistics and weights that are not those of the start."""
    for norm in (module.bn1, module.bn2):
        if getattr(norm, "running_mean", None) is not None:
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
        if getattr(norm, "weight", None) is not None:
            nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    return module


# One operator for the generator and the activation, where that is possible; otherwise layer by layer


def in_modules(module: MetaAconC) -> MetaAconC:
    """A copy that calls its layers one by one, because they have hooks."""
    copied = copy.deepcopy(module)
    for layer in (copied.fc1, copied.fc2):
        layer.register_forward_hook(lambda *_: None)
    return copied


@pytest.fixture
def fused_calls(monkeypatch):
    """One entry for each call of the fused operator."""
    calls, run = [], cpu.meta_acon_c
    monkeypatch.setattr(cpu, "meta_acon_c", lambda *args: calls.append(1) or run(*args))
    return calls


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layers", ["fused where possible", "one by one"])
def test_every_norm(norm, training, layers):
    module = randomize(MetaAconC(6, norm_cfg=NORMS[norm], init="paper", r=4)).double().train(training)
    module = in_modules(module) if layers == "one by one" else module
    x = torch.randn(4, 6, 3, 5, dtype=torch.float64, requires_grad=True)
    weight, inputs = torch.randn(x.shape, dtype=torch.float64), [x, *module.parameters()]
    wanted, got = meta_by_hand(module, x, batch_statistics=training), module(x)
    assert_close(got, wanted)
    grads, grads_wanted = (torch.autograd.grad((y * weight).sum(), inputs) for y in (got, wanted))
    assert_close(grads, grads_wanted, rtol=1e-6, atol=1e-9)


@NEEDS_COMPILED
@pytest.mark.parametrize("norm", ["BN", "reverted SyncBN", "none"])
@pytest.mark.parametrize("batch", [1, 2, 16])
@pytest.mark.parametrize("training", [True, False])
def test_fused_is_what_the_layers_compute(norm, batch, training, fused_calls):
    module = MetaAconC(40, norm_cfg=NORMS[norm.split()[-1]], init="paper")
    if norm == "reverted SyncBN":
        module = revert_sync_batchnorm(module)
    module = randomize(module).double().train(training)
    one_by_one = in_modules(module)
    for _ in range(2):  # the second time with other running statistics
        x = torch.randn(batch, 40, 3, 3, dtype=torch.float64)
        y, wanted = module(x), one_by_one(x)
        assert_close(y, wanted)
        grads, grads_wanted = (
            torch.autograd.grad(result.square().sum(), list(m.parameters()))
            for result, m in ((y, module), (wanted, one_by_one))
        )
        assert_close(grads, grads_wanted, rtol=1e-9, atol=1e-9)
    assert_close(module.state_dict(), one_by_one.state_dict())
    assert len(fused_calls) == 2


@NEEDS_COMPILED
def test_fused_in_mixed_precision(fused_calls):
    """Under autocast, x is bfloat16; the parameters and the computation of the generator are float32."""
    module = MetaAconC(40, init="paper")
    one_by_one = in_modules(module)
    x = torch.randn(2, 40, 5, 5, dtype=torch.bfloat16)
    y, wanted = module(x), one_by_one(x)
    assert len(fused_calls) == 1 and y.dtype == torch.bfloat16
    assert_close(y, wanted, rtol=0.02, atol=0.02)
    assert_close(module.state_dict(), one_by_one.state_dict(), rtol=1e-4, atol=1e-5)


class Doubled(nn.Module):
    """An adapter around a layer. As low-rank adapters do, it has the weight of that layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

    def forward(self, x):
        return 2 * self.layer(x)


UNFUSED_CASES = (
    "many samples",
    "no space",
    "bfloat16",
    "forward hook",
    "forward pre-hook",
    "backward hook",
    "backward pre-hook",
    "hook on all modules",
    "a forward of its own",
    "a computed weight",
    "another layer",
    "SyncBN",
    "GN",
    "LN",
    "cumulative",
    "no running statistics",
    "running statistics turned off",
    "no affine",
    "one norm in training",
)


@pytest.mark.parametrize("case", UNFUSED_CASES)
def test_layers_run_where_the_operator_cannot(case, fused_calls, request):
    norm_cfg = {
        "cumulative": dict(type="BN", momentum=None),
        "no running statistics": dict(type="BN", track_running_stats=False),
        "no affine": dict(type="BN", affine=False),
    }.get(case, NORMS.get(case, NORMS["BN"]))
    module = randomize(MetaAconC(4, norm_cfg=norm_cfg, init="paper"))
    x = torch.randn(17 if case == "many samples" else 2, 4, 3, 3)
    x[0] += 1  # the norms divide by the difference of the samples
    called, rounding, batch_statistics = [], 1e-5, True
    if case == "no space":
        x = x.mean((2, 3))
    if case == "bfloat16":
        module, x, rounding = module.bfloat16(), x.bfloat16(), 0.05
    if case == "SyncBN":
        module, batch_statistics = module.eval(), False  # on a CPU it does not train
    if case == "one norm in training":
        module.bn1.eval()
        module.bn1.running_mean.zero_(), module.bn1.running_var.fill_(1 - module.bn1.eps)
        nn.init.ones_(module.bn1.weight), nn.init.zeros_(module.bn1.bias)
    if case == "running statistics turned off":
        module.bn1.track_running_stats = module.bn2.track_running_stats = False
    if case == "forward hook":
        module.bn2.register_forward_hook(lambda *_: called.append(case))
    if case == "forward pre-hook":
        module.fc1.register_forward_pre_hook(lambda *_: called.append(case))
    if case == "backward hook":
        module.fc2.register_full_backward_hook(lambda *_: called.append(case))
    if case == "backward pre-hook":
        module.fc2.register_full_backward_pre_hook(lambda *_: called.append(case))
    if case == "hook on all modules":
        on_all = register_module_forward_hook(lambda each, *_: called.append(case) if each is module.fc1 else None)
        request.addfinalizer(on_all.remove)
    if case == "a forward of its own":
        module.fc2.forward = Doubled(copy.copy(module.fc2)).forward
    if case == "a computed weight":
        parametrize.register_parametrization(module.fc2, "weight", nn.Tanh())
    if case == "another layer":
        module.fc2 = Doubled(module.fc2)
    doubled = ("another layer", "a forward of its own")
    reference = copy.deepcopy(module)
    if case == "one norm in training":
        reference.bn1 = nn.Identity()  # which its running statistics make of it
    wanted = meta_by_hand(reference, x, batch_statistics, fc2_factor=2 if case in doubled else 1)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    y = module(x)
    y.sum().backward()
    assert_close(y.double(), wanted, rtol=rounding, atol=rounding)
    assert not fused_calls and called == ([case] if "hook" in case else [])
    if case == "running statistics turned off":
        assert_close(dict(module.named_buffers()), before, rtol=0, atol=0)


# Batch norms of the generator that get one value per channel, or none


@pytest.fixture
def logged():
    """The messages of mmengine's current logger."""
    inner._log_single_value.cache_clear()
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append((record.levelname, record.getMessage()))
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
    inner._log_single_value.cache_clear()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_any_batch_size(norm, batch, training, logged):
    module = randomize(MetaAconC(4, norm_cfg=NORMS[norm], init="paper")).double().train(training)
    single = "BN" in norm and batch < 2
    buffers = {k: v.clone() for k, v in module.named_buffers()}
    x = torch.randn(batch, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    # Where there are no batch statistics, the running ones normalize, as in evaluation.
    wanted = meta_by_hand(module, x, batch_statistics=training and not single)
    y, inputs = module(x), [x, *module.parameters()]
    assert_close(y, wanted)
    grads, grads_wanted = (torch.autograd.grad(result.square().sum(), inputs) for result in (y, wanted))
    assert_close(grads, grads_wanted, rtol=1e-6, atol=1e-6)
    changed = [k for k, v in module.named_buffers() if not torch.equal(v, buffers[k])]
    assert bool(changed) == ("BN" in norm and training and not single)
    warnings = [text for level, text in logged if level == "WARNING"]
    assert len(warnings) == (single and training)  # once, though there are two norms
    assert all("fewer than 2 values per channel in training" in text for text in warnings)


@pytest.mark.parametrize("generator", ["channel", "layer", "pixel"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batch", [1, 2, 20])
@pytest.mark.parametrize("space", [(0,), (0, 5), (5, 0), (2, 0, 3)])
@pytest.mark.parametrize("layout", ["first", "last", "stored last"])
def test_empty_space_changes_no_statistics(generator, norm, batch, space, layout):
    channel_dim = -1 if layout == "last" else 1
    module = MetaAconC(4, generator=generator, norm_cfg=NORMS[norm], channel_dim=channel_dim, batch_first=True)
    buffers = {k: v.clone() for k, v in module.named_buffers()}
    x = torch.randn(batch, *space, 4)
    x = (x if layout == "last" else x.movedim(-1, 1).contiguous() if layout == "first" else x.movedim(-1, 1)).detach()
    y = module(x.requires_grad_())
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape
    # 0 and not None, for which DistributedDataParallel would wait.
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())
    assert_close(dict(module.named_buffers()), buffers, rtol=0, atol=0)


def test_single_value_without_running_statistics():
    """Mean 0 and variance 1 normalize, so that the norms change nothing."""
    module = MetaAconC(4, norm_cfg=dict(type="BN", track_running_stats=False), init="paper")
    bare = MetaAconC(4, norm_cfg=None, init="paper")
    bare.load_state_dict(module.state_dict(), strict=False)
    x = torch.randn(1, 4, 3, 3)
    assert_close(module(x), bare(x), rtol=1e-4, atol=1e-4)
