"""What a CPU has stand-ins for, on a GPU: float16 with a scaled loss, nccl, SyncBN, the Triton kernels in training."""

import os
import re
import subprocess
import sys

import pytest
import torch

from acon_mm.checkpoints import load_checkpoint
from helpers.tiny_runs import PICTURES, TOOLS, load_tool, log_of, run, run_script, test, train, weights

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

META = ("model.backbone.act_cfg.type=MetaAconC",)
RANK_HOOK = """
import hashlib
from pathlib import Path
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.nn import SyncBatchNorm


@HOOKS.register_module()
class WriteRank(Hook):
    def after_train(self, runner):
        state = {name: value for name, value in runner.model.state_dict().items() if hasattr(value, "cpu")}
        values = b"".join(value.cpu().numpy().tobytes() for value in state.values())
        synced = sum(isinstance(module, SyncBatchNorm) for module in runner.model.modules())
        lines = [dist.get_backend(), dist.get_world_size(), synced, hashlib.sha256(values).hexdigest()]
        Path(runner.work_dir, f"rank{runner.rank}").write_text("\\n".join(map(str, lines)))
"""


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_amp_is_float16_with_a_scaled_loss(configs, tmp_path, task):
    run(train, configs[task], tmp_path, "--amp", options=META)
    checkpoint = load_checkpoint(tmp_path / "iter_2.pth")
    assert checkpoint["optimizer"]["loss_scaler"]["scale"] > 1
    assert not any(each.dtype in (torch.float16, torch.bfloat16) for each in checkpoint["state_dict"].values())
    assert all(each.isfinite().all() for each in checkpoint["state_dict"].values())
    assert "bfloat16" not in log_of(tmp_path)
    assert run(test, configs[task], tmp_path / "test", str(tmp_path / "iter_2.pth"), options=META)


def test_a_run_resumes_with_its_loss_scale(configs, tmp_path):
    run(train, configs["segmentation"], tmp_path, "--amp")
    before = load_checkpoint(tmp_path / "iter_2.pth")["optimizer"]["loss_scaler"]
    run(train, configs["segmentation"], tmp_path, "--amp", "--resume", options=("train_cfg.max_iters=4",))
    after = load_checkpoint(tmp_path / "iter_4.pth")["optimizer"]["loss_scaler"]
    assert after["_growth_tracker"] == before["_growth_tracker"] + 2


@pytest.mark.parametrize("flags", [(), ("--amp",)], ids=["float32", "amp"])
def test_processes_with_nccl_and_sync_bn(configs, tmp_path, flags):
    """One process for each GPU, two at most. Meta-ACON's generator has SyncBN, too."""
    processes = min(2, torch.cuda.device_count())
    (tmp_path / "write_rank.py").write_text(RANK_HOOK)
    config = tmp_path / "config.py"
    config.write_text(
        f"_base_ = {str(configs['segmentation'])!r}\n"
        'custom_imports = dict(imports=["acon_mm", "write_rank"], allow_failed_imports=False)\n'
        'custom_hooks = [dict(type="WriteRank")]\n'
        'model = dict(backbone=dict(act_cfg=dict(type="MetaAconC", norm_cfg=dict(type="SyncBN"))))\n'
    )
    env = {"PYTHONPATH": str(tmp_path)}
    done = run_script("dist_train.sh", config, processes, "--work-dir", "run", *flags, cwd=tmp_path, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = [(tmp_path / f"run/rank{rank}").read_text().split("\n") for rank in range(processes)]
    backend, size, synced, _ = ranks[0]
    assert (backend, size) == ("nccl", str(processes)) and int(synced) > 12
    assert all(rank == ranks[0] for rank in ranks)  # the same weights and the same statistics
    assert "SyncBN does not work" not in log_of(tmp_path / "run")

    checkpoint = tmp_path / "run/iter_2.pth"
    done = run_script(
        "dist_test.sh", config, checkpoint, processes, "--work-dir", "tested", "--out", "labels", cwd=tmp_path, **env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "labels").iterdir())) == PICTURES
    (found,) = re.findall(r"mIoU: (\S+)", log_of(tmp_path / "tested"))
    alone = run(test, configs["segmentation"], tmp_path / "alone", str(checkpoint), options=META)
    assert float(found) == pytest.approx(alone["mIoU"], abs=0.1)


def test_a_run_on_the_gpu_is_the_run_on_the_cpu(configs, tmp_path):
    """Two iterations from the same seed, up to rounding."""
    run(train, configs["segmentation"], tmp_path / "gpu", options=META)
    command = [sys.executable, TOOLS / "train.py", configs["segmentation"], "--work-dir", tmp_path / "cpu"]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*command, "--cfg-options", *META], env=hidden, capture_output=True, check=True)
    on_gpu, on_cpu = (weights(tmp_path / name / "iter_2.pth") for name in ("gpu", "cpu"))
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-2, atol=1e-3)


def test_the_check_of_the_device_finds_no_fault(capsys):
    tool = load_tool("analysis_tools/check_device")
    assert tool.main(["--quick", "--device", "cuda", "--sections", "correctness"]) == 0, capsys.readouterr().out
