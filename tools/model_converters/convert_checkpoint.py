"""Convert weights for models with ACON, from the authors' ResNets or from ReLU networks."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy

import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader

from acon_mm.checkpoints import acon_types, convert_official, convert_relu, load_checkpoint, requirements
from acon_mm.engine import command_line
from acon_mm.errors import UserError
from acon_mm.files import replacing


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_line.argument_parser(
        __doc__, "relu torchvision://resnet50 out.pth --config CONFIG.py", config=False
    )
    commands = parser.add_subparsers(dest="command", required=True)

    official = commands.add_parser("official", help="the authors' ResNets with ACON-C or Meta-ACON (any depth)")
    official.add_argument("src", help="the authors' file")
    official.add_argument("dst", help="file to write: weights of a backbone")
    official.add_argument("--keep-classifier", action="store_true", help="keep fc.weight and fc.bias")

    relu = commands.add_parser("relu", help="a ReLU network's weights for the ACON model of a config")
    relu.add_argument("src", help="file, URL or torchvision://NAME: weights of a whole model or of its backbone")
    relu.add_argument("dst", help="file to write: the same weights, and ACON's parameters, which start close to ReLU")
    relu.add_argument("--config", required=True, help="config of the ACON model")
    command_line.add_cfg_options(relu)
    relu.add_argument("--allow", nargs="+", default=(), metavar="NAME", help="tensors or modules that may differ")

    show = commands.add_parser("show", help="print what a checkpoint contains")
    show.add_argument("src", help="checkpoint file")
    return parser.parse_args(argv)


def official(args: argparse.Namespace) -> None:
    checkpoint = convert_official(load_checkpoint(args.src), keep_classifier=args.keep_classifier)
    _save(checkpoint, args.dst)
    worst = checkpoint["meta"]["difference"]
    print(f"Outputs on a random picture differ from the authors' network's by {worst:.1e} relative at most.")
    _describe(checkpoint)


def relu(args: argparse.Namespace) -> None:
    cfg = command_line.load_config(args, needs=("model",))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(deepcopy(cfg.model))
    source = CheckpointLoader.load_checkpoint(args.src, "cpu") if "://" in args.src else load_checkpoint(args.src)
    try:
        converted = convert_relu(model, source, allow=args.allow)
    except ValueError as error:
        raise UserError(f"{args.config}: {error}") from error
    _save(converted.checkpoint, args.dst)
    print(converted.report)
    print(f"Features on a random picture differ from the ReLU network's by {converted.difference:.1e} relative.")


def show(args: argparse.Namespace) -> None:
    _describe(load_checkpoint(args.src))


def _save(checkpoint: dict, path: str) -> None:
    with replacing(path) as file:
        torch.save(checkpoint, file)
    print(f"Wrote {path}")


def _describe(checkpoint: dict) -> None:
    state = checkpoint.get("state_dict", checkpoint)
    numbers = Counter(acon_types.acon_types_by_place(state).values())
    acons = ", ".join(f"{number} {acon_type}" for acon_type, number in sorted(numbers.items()))
    print(f"{len(state)} tensors; ACONs: {acons or 'none'}")
    for place, required in requirements.requirements_in(state).items():
        needs = ", ".join(f"{key}={value!r}" for key, value in required.items() if key not in ("source", "input"))
        print(f"Required of {place or 'the backbone'}: {needs}")
        if required.get("input"):
            pixels = required["input"]
            print(f"Required of data_preprocessor: mean={pixels['mean']}, std={pixels['std']}, bgr_to_rgb=False")


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with command_line.session(args.launcher, args.debug):
        {"official": official, "relu": relu, "show": show}[args.command](args)


if __name__ == "__main__":
    main()
