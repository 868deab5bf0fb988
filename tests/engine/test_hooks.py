"""LoadCheckHook: what a config lists may differ."""

from unittest.mock import Mock

import pytest
from torch import nn

from acon_mm.checkpoints import load_state_dict
from acon_mm.engine import LoadCheckHook
from helpers.loading import ACONC, backbone, refused, without
from helpers.tiny_runs import error_of, log_of, run, test, train


@pytest.mark.slow
def test_it_lists_differences_for_a_run(configs, trained, tmp_path, capsys):
    """More classes than the checkpoint has: an error, and with the hook a run."""
    checkpoint, name = trained["segmentation"], "acon.py"
    (tmp_path / name).write_text(
        f"_base_ = {str(configs['segmentation'])!r}\n"
        "model = dict(backbone=dict(act_cfg=dict(type='AconC', init='relu')), decode_head=dict(num_classes=5))\n"
        f"load_from = {str(checkpoint)!r}\n"
    )
    error = error_of(capsys, run, train, tmp_path / name, tmp_path / "refused")
    assert error.startswith("the checkpoint does not fit EncoderDecoder: size mismatch for decode_head.conv_seg.weight")
    with open(tmp_path / name, "a") as file:
        file.write("default_hooks = dict(load_check=dict(type='LoadCheckHook', allow=['decode_head.conv_seg']))\n")
    run(train, tmp_path / name, tmp_path / "run")
    table = log_of(tmp_path / "run")
    assert "dropped, of the wrong shape        2  decode_head.conv_seg.weight" in table and "init='relu'" in table
    # Its own checkpoint fits wholly, for test and resume.
    run(test, tmp_path / name, tmp_path / "test", str(tmp_path / "run/iter_2.pth"))
    assert "ACON's own, keep their init        0" in log_of(tmp_path / "test")
    longer = ("train_cfg.max_iters=4",)
    run(train, tmp_path / name, tmp_path / "on", "--resume", str(tmp_path / "run/iter_2.pth"), options=longer)
    assert "ACON's own, keep their init        0" in log_of(tmp_path / "on")


def test_parts_know_the_differences_by_their_own_names():
    """`allow` has names of the whole model, and `init_cfg` loads into a part of it."""
    model = nn.Sequential(backbone(ACONC))
    state = without("layer4.", backbone().state_dict())
    refused(model[0], state, "it has no weights for layer4")
    LoadCheckHook(allow=["0.layer4"]).before_run(Mock(model=model))
    assert load_state_dict(model[0], state).missing and load_state_dict(model, {f"0.{k}": state[k] for k in state})


@pytest.mark.parametrize("allow", ["bbox_head", [1], 7, None])
def test_it_takes_a_list_of_names(allow):
    with pytest.raises(TypeError, match="allow must be a list of names, got "):
        LoadCheckHook(allow=allow)
