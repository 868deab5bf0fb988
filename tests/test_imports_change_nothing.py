"""Importing acon_mm does not change a model without ACON, to the last bit. Two new processes are compared."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # two processes that train 19 models for a step

CONFIGS = (
    "mmdet/atss/atss_r18_fpn_8xb8-amp-lsj-200e_coco.py",
    "mmdet/detr/detr_r18_8xb2-500e_coco.py",
    "mmdet/hrnet/fcos_hrnetv2p-w18-gn-head_4xb4-1x_coco.py",
    "mmdet/mask_rcnn/mask-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py",
    "mmdet/pvt/retinanet_pvt-t_fpn_1x_coco.py",
    "mmdet/rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py",
    "mmdet/solo/solo_r18_fpn_8xb8-lsj-200e_coco.py",
    "mmdet/yolox/yolox_tiny_8xb8-300e_coco.py",
    "mmseg/bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py",
    "mmseg/ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py",
    "mmseg/deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    "mmseg/fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py",
    "mmseg/icnet/icnet_r18-d8-in1k-pre_4xb2-160k_cityscapes-832x832.py",
    "mmseg/mobilenet_v2/mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024.py",
    "mmseg/pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py",
    "mmseg/segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py",
    "mmseg/segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py",
    "mmseg/stdc/stdc1_in1k-pre_4xb12-80k_cityscapes-512x1024.py",
    "mmseg/unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py",
)


@pytest.fixture(scope="module")
def digests() -> dict[bool, dict]:
    """The digests with and without acon_mm. Both processes run at the same time, each on one core."""
    script = Path(__file__).parent / "helpers/digest_models.py"
    commands = {
        False: [sys.executable, str(script), *CONFIGS],
        True: [sys.executable, str(script), "--import", "acon_mm", *CONFIGS],
    }
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running = {with_acon_mm: subprocess.Popen(command, **pipe) for with_acon_mm, command in commands.items()}
    found = {}
    for with_acon_mm, process in running.items():
        out, err = process.communicate()
        assert process.returncode == 0, err
        result = json.loads(out.splitlines()[-1])
        assert result["with_acon_mm"] == with_acon_mm
        found[with_acon_mm] = result["digests"]
    return found


@pytest.mark.parametrize("config", CONFIGS)
def test_bit_identical(config, digests):
    assert digests[True][config] == digests[False][config]
