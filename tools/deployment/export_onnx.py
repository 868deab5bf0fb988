"""Export the network of a detector or a segmentor to ONNX: its backbone, neck and head, in standard operators alone.

The input is a batch of pictures that `data_preprocessor` has prepared, (N, 3, H, W). N is free; H and W are fixed. The
outputs are the head's, before boxes are decoded or label maps are made: MMDeploy exports whole pipelines.
"""

from __future__ import annotations

import argparse
import inspect
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

import acon_mm  # noqa: F401  registers activations
from acon_mm.engine import command_line
from acon_mm.files import write_file


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_line.argument_parser(
        __doc__, "configs/detection/retinanet_r18-aconc_fpn_6e_digits.py epoch_6.pth --out net.onnx"
    )
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", required=True, metavar="FILE.onnx", help="file to write")
    command_line.add_shape(parser, default=(512, 512))
    return parser.parse_args(argv)


class Network(nn.Module):
    """A model that returns the tensors of its head, one after the other."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(_tensors(self.model(x, mode="tensor")))


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    else:
        for each in outputs:
            yield from _tensors(each)


def onnx_bytes(network: nn.Module, x: Tensor) -> bytes:
    """The network as an ONNX file. The exporter by tracing needs no other package."""
    choice = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that become constants, which is meant
        torch.onnx.export(
            network, (x,), file, input_names=["x"], dynamic_axes={"x": {0: "n"}}, opset_version=17, **choice
        )
    return file.getvalue()


def difference(model: bytes, network: nn.Module, x: Tensor) -> float | None:
    """The largest difference from PyTorch, relative to the largest output; None: onnxruntime is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = map(torch.from_numpy, session.run(None, {"x": x.numpy()}))
    with torch.no_grad():
        return max(map(_relative, found, network(x)))


def _relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with command_line.session(args.launcher, args.debug):
        if not args.out.endswith(".onnx"):
            raise command_line.UserError(f"--out must end in .onnx, got {args.out}")
        cfg = command_line.load_config(args, needs=("model",))
        command_line.check_checkpoint(args.checkpoint)
        init_default_scope(cfg.default_scope)
        model = MODELS.build(cfg.model)
        if hasattr(model, "roi_head"):
            raise command_line.UserError(
                f"{args.config} is a two-stage detector, whose head works on boxes: MMDeploy exports those"
            )
        load_checkpoint(model, args.checkpoint, map_location="cpu")
        network = Network(model).eval()
        x = torch.randn(2, 3, *args.shape, generator=torch.Generator().manual_seed(0))
        exported = onnx_bytes(network, x)
        differs = difference(exported, network, x)
        if differs is not None and not differs < 1e-3:
            raise command_line.UserError(
                f"nothing is written: the outputs differ from PyTorch's by {differs:.1e} relative"
            )
        write_file(args.out, exported)
    checked = (
        "not compared with PyTorch's: pip install onnxruntime"
        if differs is None
        else f"within {differs:.1e} of PyTorch's"
    )
    print(f"Wrote {args.out}; its outputs are {checked}")


if __name__ == "__main__":
    main()
