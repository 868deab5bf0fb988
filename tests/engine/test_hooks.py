"""LoadCheckHook: what a config lists may differ."""

import pytest

from acon_mm.engine import LoadCheckHook
from helpers.tiny_runs import error_of, log_of, run, test, train


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


@pytest.mark.parametrize("allow", ["bbox_head", [1]])
def test_it_takes_a_list_of_names(allow):
    with pytest.raises(TypeError, match="allow must be a list of names, got "):
        LoadCheckHook(allow=allow)
