"""`--resume` where the config has other activations, or other groups of parameters, than the checkpoint."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from torch import nn

from acon_mm import AconA, AconC, MetaAconC
from acon_mm.engine.resuming import ResumeCheckHook
from acon_mm.errors import UserError
from helpers.tiny_runs import error_of, run, train

#: before AconOptimWrapperConstructor, patterns of names were used
PATTERNS = dict(paramwise_cfg=dict(custom_keys={".p1": dict(decay_mult=0)}))
ACON = dict(constructor="AconOptimWrapperConstructor")


def stepped(act: nn.Module, optimizer: str = "SGD", **options) -> OptimWrapper:
    """The optimizer of a small network after one step."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), act, nn.Conv2d(8, 8, 1))
    momentum = dict(momentum=0.9) if optimizer == "SGD" else {}
    optimizer = dict(type=optimizer, lr=0.1, weight_decay=0.1, **momentum)
    wrapper = build_optim_wrapper(model, dict(type="OptimWrapper", optimizer=optimizer, **options))
    wrapper.update_params(model(torch.randn(2, 3, 4, 4)).sum())
    return wrapper


def resume(saved: OptimWrapper, config: OptimWrapper) -> None:
    runner = SimpleNamespace(optim_wrapper=config, _load_from="a.pth")
    state = saved.state_dict()
    ResumeCheckHook().after_load_checkpoint(runner, {"optimizer": state})
    config.load_state_dict(state)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "RMSprop"])
@pytest.mark.parametrize(
    ("act", "options", "message"),
    [
        (nn.ReLU(), {}, "has 4 tensors in groups of [4], that of the config 7 in groups of [4, 3]"),
        (AconA(8), ACON, "has 5 tensors in groups of [4, 1], that of the config 7 in groups of [4, 3]"),
        (AconC(8), {}, "has 7 tensors in groups of [7], that of the config 7 in groups of [4, 3]"),
        (
            AconC(8),
            PATTERNS,
            "has 7 tensors in groups of [1, 1, 1, 1, 1, 1, 1], that of the config 7 in groups of [4, 3]",
        ),
    ],
)
def test_other_groups(act, options, message, optimizer):
    with pytest.raises(UserError) as error:
        resume(stepped(act, optimizer, **options), stepped(AconC(8), optimizer, **ACON))
    assert str(error.value).startswith(f"cannot resume from a.pth: its optimizer {message}")
    assert str(error.value).endswith("without --resume: --cfg-options load_from=a.pth")


@pytest.mark.parametrize(
    ("saved", "config"),
    [
        ((AconC(8), PATTERNS), (AconC(8), ACON | dict(paramwise_cfg=dict(norm_decay_mult=0)))),  # the same 7 groups
        ((MetaAconC(8), {}), (MetaAconC(8, r=2), {})),
    ],
)
def test_other_shapes(saved, config):
    """PyTorch would load these, and fail in the next step or compute with the momentum of other parameters."""
    with pytest.raises(UserError, match=r"its optimizer has the shape \(.* where the config has \("):
        resume(*(stepped(act, **options) for act, options in (saved, config)))


@pytest.mark.parametrize(
    ("saved", "config", "missing"),
    [("SGD", "AdamW", "betas"), ("AdamW", "SGD", "dampening"), ("RMSprop", "Adam", "betas")],
)
def test_another_type(saved, config, missing):
    """PyTorch would load it, and fail in the next step."""
    with pytest.raises(UserError, match=f"its optimizer has no .*{missing}.*, which {config} needs"):
        resume(stepped(AconC(8), saved), stepped(AconC(8), config))


@pytest.mark.parametrize("bad", [torch.tensor(torch.nan), torch.tensor(1j), [1.0]])
def test_momentum_that_is_not_finite(bad):
    """PyTorch would load it, without the imaginary part."""
    saved = stepped(AconC(8)).state_dict()
    momentum = saved["state"][1]["momentum_buffer"]
    saved["state"][1]["momentum_buffer"] = bad if isinstance(bad, list) else momentum * bad
    with pytest.raises(
        UserError, match=r"the optimizer's momentum_buffer in the checkpoint is not of finite real numbe"
    ):
        resume(SimpleNamespace(state_dict=lambda: saved), stepped(AconC(8)))


def test_the_same_is_resumed():
    for options in ({}, PATTERNS, ACON):
        resume(stepped(AconC(8), **options), stepped(AconC(8, init="swish"), **options))
    one, other = (OptimWrapperDict(a=stepped(nn.ReLU()), b=stepped(AconC(8), **ACON)) for _ in range(2))
    resume(one, other)
    with pytest.raises(UserError, match="has 4 tensors"):
        resume(one, OptimWrapperDict(a=stepped(AconC(8)), b=stepped(AconC(8), **ACON)))


def test_the_tool_says_it_in_one_line(configs, trained, tmp_path, capsys):
    checkpoint = str(trained["segmentation"])
    options = ("model.backbone.act_cfg.type=AconC", "train_cfg.max_iters=4")
    args = configs["segmentation"], tmp_path, "--resume", checkpoint
    error = error_of(capsys, run, train, *args, options=options)
    assert error.startswith(f"cannot resume from {checkpoint}: its optimizer has 38 tensors in groups of [38], that ")
