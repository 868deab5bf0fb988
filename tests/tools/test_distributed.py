"""The tools in several processes, and the scripts that start them."""

import json
import os
import subprocess
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from acon_mm.compat import strict_zip
from acon_mm.engine import devices
from helpers.tiny_runs import PICTURES, TOOLS, free_port, log_of, run, run_script, test, train

RANK_HOOK = """
import hashlib
from pathlib import Path
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class WriteRank(Hook):
    seen = []

    def before_train_iter(self, runner, batch_idx, data_batch):
        self.seen += [Path(sample.img_path).name for sample in data_batch["data_samples"]]

    def after_train(self, runner):
        values = b"".join(value.detach().numpy().tobytes() for value in runner.model.parameters())
        lines = [dist.get_backend(), dist.get_world_size(), hashlib.sha256(values).hexdigest(), self.seen]
        Path(runner.work_dir, f"rank{runner.rank}").write_text("\\n".join(map(str, lines)))
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA takes nccl")
def test_two_processes_on_cpu(configs, tmp_path):
    """A model with Meta-ACON. The scripts start outside the repository, with a relative path that has a space in it."""
    (tmp_path / "write_rank.py").write_text(RANK_HOOK)
    config = tmp_path / "two processes.py"
    config.write_text(
        f"_base_ = {str(configs['segmentation'])!r}\n"
        'custom_imports = dict(imports=["acon_mm", "write_rank"], allow_failed_imports=False)\n'
        'custom_hooks = [dict(type="WriteRank")]\n'
        'model = dict(backbone=dict(act_cfg=dict(type="MetaAconC")))\n'
    )
    env = {"PYTHONPATH": str(tmp_path)}
    done = run_script("dist_train.sh", config.name, 2, "--work-dir", "work dir", cwd=tmp_path, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    work_dir = tmp_path / "work dir"
    first, second = ((work_dir / f"rank{rank}").read_text().split("\n") for rank in (0, 1))
    assert first[:3] == second[:3] and first[:2] == ["gloo", "2"]
    assert first[3] != second[3]  # from other pictures
    # 10 in the backbone and 2 in the head; one process logs it
    assert log_of(work_dir).count("SyncBN does not work without CUDA: 12 layers are replaced by BN.") == 1

    checkpoint = work_dir / "iter_2.pth"
    done = run_script(
        "dist_test.sh", config.name, checkpoint, 2, "--work-dir", "tested", "--out", "labels", cwd=tmp_path, **env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "labels").iterdir())) == PICTURES
    acon = ("model.backbone.act_cfg.type=MetaAconC",)
    alone = run(test, configs["segmentation"], tmp_path / "alone", str(checkpoint), options=acon)
    (found,) = (tmp_path / "tested").glob("*/*.json")
    assert json.loads(found.read_text())["mIoU"] == pytest.approx(alone["mIoU"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA takes nccl")
@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_other_launchers_on_cpu(configs, tmp_path, launcher):
    """A job of one process, with the environment that the launcher would set."""
    described = dict(strict_zip(devices.RANK_VARIABLES[launcher], ("0", "1", "0")))
    with mock.patch.dict(os.environ, described | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}):
        run(train, configs["segmentation"], tmp_path, "--launcher", launcher)
    assert f"Distributed launcher: {launcher}" in log_of(tmp_path)
    assert "layers are replaced by BN" in log_of(tmp_path)
    assert not dist.is_initialized()
    # A thread that lives longer than the interpreter sometimes aborts the process.
    assert not [task for task in Path("/proc/self/task").glob("*/comm") if "gloo" in task.read_text()]


def test_slurm_script_passes_everything_on(tmp_path):
    (tmp_path / "srun").write_text('#!/bin/sh\nfor each; do echo "$each"; done\necho "$PYTHONPATH"')
    (tmp_path / "srun").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "GPUS": "4", "SRUN_ARGS": "--qos=low --exclusive"}
    args = ["part", "job", "my config.py", "--cfg-options", "a.b=x y"]

    def arguments(**more: str) -> list[str]:
        command = ["bash", str(TOOLS / "slurm_train.sh"), *args]
        return subprocess.run(command, env=env | more, capture_output=True, text=True, check=True).stdout.splitlines()

    expected = ["-p", "part", "--job-name=job", "--gres=gpu:4", "--ntasks=4", "--ntasks-per-node=4"]
    expected += ["--cpus-per-task=5", "--kill-on-bad-exit=1", "--qos=low", "--exclusive", "python", "-u"]
    expected += [str(TOOLS / "train.py"), "my config.py", "--launcher", "slurm", "--cfg-options", "a.b=x y"]
    assert arguments()[:-1] == expected
    assert arguments()[-1].startswith(f"{TOOLS}/..")
    assert not any("gres" in each for each in arguments(GRES=""))


@pytest.mark.parametrize(
    ("name", "usage"), [("dist_train.sh", 2), ("dist_test.sh", 3), ("slurm_train.sh", 3)], ids=lambda value: str(value)
)
def test_scripts_tell_their_usage(tmp_path, name, usage):
    for arguments in (["x"] * (usage - 1), ["x"] * usage, ["0"] * usage)[: 1 if "slurm" in name else 3]:
        done = run_script(name, *arguments, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith("usage: ")
