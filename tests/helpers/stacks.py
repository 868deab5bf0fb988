"""What the tests cannot do with older stacks: the one list, with reasons. pytest prints it at the end of a run."""

from __future__ import annotations

import importlib.util
import inspect
import weakref
from fnmatch import fnmatchcase
from functools import cache

import torch
from mmseg.models import SegDataPreProcessor
from torch import nn

from acon_mm import AconC, compat
from acon_mm.ops.memory import recompute_outputs


def _drops_outputs() -> bool:
    """Whether this PyTorch tells what its operators have kept, so that outputs of ACONs can be made again."""
    act, conv = AconC(16), nn.Conv2d(16, 16, 1)
    y = act(torch.randn(2, 16, 64, 64, requires_grad=True))
    kept, loss = weakref.ref(y), conv(y).sum()
    del y
    recompute_outputs(loss)
    return kept() is None


def _refuses_functorch() -> bool:
    try:
        torch.func.grad(lambda x: AconC(3)(x).sum())(torch.ones(1, 3, 1, 1))
    except RuntimeError:
        return True
    return False


def _normalizes_half() -> bool:
    x = torch.ones(2, 1, 1, 1, dtype=torch.float16)
    try:
        nn.functional.batch_norm(x, None, None, training=True)
    except RuntimeError:
        return False
    return True


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


#: what is missing: whether it is there, the reason, and the tests that need it
_LIMITS = (
    (
        _drops_outputs,
        "this PyTorch does not tell what its operators keep, so outputs are kept as usual",
        [
            "tests/ops/test_memory.py::test_after_a_head_and_before_its_loss",
            "tests/ops/test_memory.py::test_an_output_changed_in_place_after_it_was_saved",
            "tests/ops/test_memory.py::test_by_what_keeps_it",
            "tests/ops/test_memory.py::test_dtypes_and_layouts",
            "tests/ops/test_memory.py::test_freed_parameters_are_an_error",
            "tests/ops/test_memory.py::test_no_output_is_kept",
            "tests/ops/test_memory.py::test_the_next_acon_lets_go*",
            "tests/ops/test_norm_before.py::test_a_model_from_its_config",
            "tests/ops/test_norm_before.py::test_frozen_norms",
            "tests/ops/test_norm_before.py::test_gradients_*",
            "tests/ops/test_norm_before.py::test_one_node*",
            "tests/ops/test_memory_least.py::test_a_norm_before_it",
            "tests/ops/test_memory_least.py::test_a_freed_weight*",
            "tests/ops/test_memory_least.py::test_a_weight*",
            "tests/ops/test_memory_least.py::test_after_synchronized_norms",
            "tests/ops/test_memory_least.py::test_by_activation",
            "tests/ops/test_memory_least.py::test_dtypes_and_layouts",
            "tests/ops/test_memory_least.py::test_from_a_config",
            "tests/ops/test_memory_least.py::test_sums",
            "tests/analysis/memory/test_layers.py::test_an_acon_keeps_its_input_only",
            "tests/analysis/memory/test_layers.py::test_least_keeps_what_convolutions_made",
            "tests/test_patches.py::test_each_change_both_ways[[]outputs_are_recomputed]",
            "tests/tools/test_memory.py::test_a_segmentor",
        ],
    ),
    (
        lambda: _has_module("mmdet.models.tracking_heads"),
        "this mmdet has no tracking and no re-identification",
        [
            "*[[]fc-module]",
            "*::test_persons_are_high_and_roi_align_is_mmcvs",
            "*[[]quasi-dense]",
            "*[[]roi-embed]",
            "*[[]mmdet.models.reid.*",
            "*[[]mmdet.models.tracking_heads.*",
        ],
    ),
    (
        lambda: _has_module("mmdet.models.necks.fpn_dropblock"),
        "this mmdet has no FPN_DropBlock",
        ["*[[]fpn-dropblock]", "*[[]mmdet.models.necks.fpn_dropblock*"],
    ),
    (
        lambda: _has_module("mmdet.models.language_models"),
        "this mmdet has no language models",
        ["*[[]dyconv]", "*[[]mmdet.models.language_models*", "*[[]mmdet.models.dense_heads.atss_vlfusion_head*"],
    ),
    (
        lambda: _has_module("mmseg.models.backbones.ddrnet"),
        "this mmseg has no DDRNet",
        [
            "*[[]ddr]",
            "*[[]ddrnet]",
            "*[[]mmseg.models.backbones.ddrnet*",
            "*[[]mmseg/ddrnet/*",
            "tests/analysis/config_coverage/test_sample.py::test_the_sample_is_shipped_and_has_many_families",
        ],
    ),
    (
        lambda: _has_module("mmseg.models.text_encoder"),
        "this mmseg has no CLIP",
        ["*::test_what_is_kept_of_clip", "*[[]mmseg.models.text_encoder*"],
    ),
    (
        lambda: _has_module("mmseg.models.decode_heads.vpd_depth_head"),
        "this mmseg has no VPDDepthHead",
        ["*[[]vpd]"],
    ),
    (
        lambda: "Batch inference is not support" not in inspect.getsource(SegDataPreProcessor),
        "this mmseg tests pictures one by one: val_dataloader and test_dataloader need batch_size=1",
        [
            "tests/configs/test_digits_runs.py::test_two_iterations_and_a_test[[]deeplabv3*]",
            "tests/configs/test_digits_runs.py::test_two_iterations_and_a_test[[]fpn]",
            "tests/configs/test_digits_runs.py::test_two_iterations_and_a_test[[]pspnet]",
        ],
    ),
    (
        lambda: _has_module("mkdocs"),
        "the site is built with the default stack",
        ["tests/docs/test_site.py::*"],
    ),
    (
        _refuses_functorch,
        "torch.func of this PyTorch differentiates operators of others, and rightly",
        [
            "tests/layers/test_numerics.py::test_forward_mode_and_functorch_are_refused[[]acon_c-3]",
            "tests/layers/test_numerics.py::test_meta_refuses_forward_mode_and_functorch",
        ],
    ),
    (
        _normalizes_half,
        "this PyTorch has no batch norm in half precision on a CPU",
        ["tests/layers/test_numerics.py::test_half_precision_of_meta_has_no_nan[[]*-torch.float16-channel]"],
    ),
    (
        lambda: hasattr(torch, "compiler"),
        "this PyTorch adds gradients in a new tensor",
        ["tests/ops/test_cpu.py::test_mean_is_added_in_place_to_a_gradient_of_its_own"],
    ),
    (
        lambda: hasattr(nn.utils.parametrizations, "weight_norm"),
        "this PyTorch has no weight norm as a parametrization",
        ["tests/ops/test_norm_before.py::test_one_by_one[[]has_a_computed_weight]"],
    ),
    (
        lambda: hasattr(torch.library, "opcheck"),
        "this PyTorch has no checks of operators",
        ["tests/ops/test_cpu.py::test_opcheck"],
    ),
    (
        lambda: hasattr(torch.serialization, "set_crc32_options"),
        "this PyTorch writes checksums always",
        ["*::test_a_checkpoint_without_checksums_is_whole"],
    ),
    (
        lambda: "mmap" in inspect.signature(torch.load).parameters,
        "this PyTorch does not map files",
        ["*::test_a_mapped_file_can_be_replaced_by_its_own_tensors"],
    ),
    (
        lambda: _has_module("triton.experimental.gluon"),
        "Triton before 3.3 does not compile ahead as the launches from C++ need it",
        ["tests/ops/test_gpu.py::*launch*"],
    ),
    (
        lambda: _has_module("triton.runtime.interpreter"),
        "this Triton has no interpreter, so its kernels need a GPU",
        [
            "tests/ops/test_gpu.py::*",
            "tests/ops/test_backends.py::test_choices_of_the_environment",
            "tests/faults/test_fuzz.py::*[[]*triton*",
        ],
    ),
    (
        lambda: hasattr(torch, "compiler") and hasattr(torch.compiler, "set_stance"),
        "torch.compile of this PyTorch does not know operators of others well enough",
        [
            "tests/layers/test_integration.py::test_compile_by_inductor",
            "tests/layers/test_integration.py::test_compile_serves_all_picture_sizes",
            "tests/layers/test_integration.py::test_compile_without_graph_breaks",
            "tests/ops/test_memory.py::test_compiled_backward",
        ],
    ),
    (
        lambda: hasattr(torch, "export") and hasattr(torch.compiler, "is_exporting"),
        "this PyTorch has no torch.export, or does not tell that it exports",
        ["tests/layers/test_integration.py::test_export", "tests/layers/test_integration.py::test_onnx[[]*-True-*"],
    ),
    (
        lambda: compat.TAKES_ALLOWED_TYPES,
        "this PyTorch has no list of types that a checkpoint may name",
        [
            "tests/test_patches.py::*allowed_by_others*",
            "tests/test_patches.py::test_each_change_both_ways[[]training_checkpoints_are_read]",
            "tests/test_patches.py::test_files_are_read_with_our_list_alone",
        ],
    ),
)


def reason_to_skip(name: str) -> str:
    """Why a test cannot run here; '' if it can. ``name`` is its node id."""
    for reason, patterns in _missing():
        # A pattern means the names of tests, or with a [ also their parameters.
        if any(fnmatchcase(name if "[" in pattern else name.partition("[")[0], pattern) for pattern in patterns):
            return reason
    return ""


@cache
def _missing() -> tuple[tuple[str, list[str]], ...]:
    return tuple((reason, patterns) for is_there, reason, patterns in _LIMITS if not is_there())
