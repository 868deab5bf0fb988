"""Digests of shipped models: classes, initial state, loss, gradients and state after them. Run as a script.

    python digest_models.py [--import MODULE] CONFIG...    # as mmdet/retinanet/retinanet_r18_fpn_1x_coco.py

Configs that older packages do not ship are left out. It imports acon_mm only with ``--import acon_mm``, so that models
can be compared with and without it.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn


def samples():
    """`acon_mm.analysis.config_coverage.samples`, which needs nothing of the package around it."""
    path = Path(__file__).parents[2] / "acon_mm/analysis/config_coverage/samples.py"
    spec = importlib.util.spec_from_file_location("samples", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_downloads(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: without_downloads(value)
            for key, value in node.items()
            if key != "pretrained" and not (key == "init_cfg" and "checkpoint" in repr(value))
        }
    return type(node)(map(without_downloads, node)) if isinstance(node, (list, tuple)) else node


def path_of(config: str) -> Path:
    package, _, path = config.partition("/")
    return Path(importlib.util.find_spec(package).origin).parent / ".mim/configs" / path


def build(config: str) -> nn.Module:
    cfg = without_downloads(Config.fromfile(path_of(config)).model.to_dict())
    with DefaultScope.overwrite_default_scope(config.partition("/")[0]):
        torch.manual_seed(0)
        model = MODELS.build(ConfigDict(cfg))
        model.init_weights()
    return revert_sync_batchnorm(model)


def digest(config: str) -> dict[str, str]:
    model, batches = build(config), samples()
    found = {"classes": repr([f"{type(m).__module__}.{type(m).__qualname__}" for m in model.modules()]).encode()}
    found["start"] = in_bytes(model.state_dict())
    name, _, step = batches.passes(model)[0]
    assert name.startswith("loss")
    torch.manual_seed(0)
    loss = batches.total(step(model.train(), 64))
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients
    found |= {"loss": in_bytes({"": loss.detach()}), "gradients": in_bytes(gradients)}
    found["end"] = in_bytes(model.state_dict())
    return {key: hashlib.sha1(value).hexdigest() for key, value in found.items()}


def in_bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    return b"".join(name.encode() + value.numpy().tobytes() for name, value in tensors.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--import", dest="first", metavar="MODULE")
    parser.add_argument("configs", nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.first:
        importlib.import_module(args.first)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        digests = {config: digest(config) for config in args.configs if path_of(config).exists()}
    print(json.dumps({"digests": digests, "with_acon_mm": "acon_mm" in sys.modules}))


if __name__ == "__main__":
    main()
