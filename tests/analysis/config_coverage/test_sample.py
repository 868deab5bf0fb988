"""A fixed sample of shipped configs passes the check."""

import pytest

from acon_mm.analysis import shipped_configs
from acon_mm.analysis.config_coverage.check import check

SAMPLE = (
    "mmdet/atss/atss_r18_fpn_8xb8-amp-lsj-200e_coco.py",
    "mmdet/autoassign/autoassign_r50-caffe_fpn_1x_coco.py",
    "mmdet/boxinst/boxinst_r50_fpn_ms-90k_coco.py",
    "mmdet/cascade_rpn/cascade-rpn_fast-rcnn_r50-caffe_fpn_1x_coco.py",
    "mmdet/centernet/centernet_r18_8xb16-crop512-140e_coco.py",
    "mmdet/condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py",
    "mmdet/deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
    "mmdet/detectors/cascade-rcnn_r50-rfp_1x_coco.py",
    "mmdet/detr/detr_r18_8xb2-500e_coco.py",
    "mmdet/dyhead/atss_r50_fpn_dyhead_1x_coco.py",
    "mmdet/efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py",
    "mmdet/fast_rcnn/fast-rcnn_r50-caffe_fpn_1x_coco.py",
    "mmdet/fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco.py",
    "mmdet/foveabox/fovea_r50_fpn_4xb4-1x_coco.py",
    "mmdet/fpg/faster-rcnn_r50_fpg_crop640-50e_coco.py",
    "mmdet/fsaf/fsaf_r50_fpn_1x_coco.py",
    "mmdet/guided_anchoring/ga-fast-rcnn_r50-caffe_fpn_1x_coco.py",
    "mmdet/hrnet/fcos_hrnetv2p-w18-gn-head_4xb4-1x_coco.py",
    "mmdet/libra_rcnn/libra-fast-rcnn_r50_fpn_1x_coco.py",
    "mmdet/mask_rcnn/mask-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py",
    "mmdet/pvt/retinanet_pvt-t_fpn_1x_coco.py",
    "mmdet/regnet/retinanet_regnetx-800MF_fpn_1x_coco.py",
    "mmdet/reppoints/reppoints-moment_r50_fpn_1x_coco.py",
    "mmdet/resnest/faster-rcnn_s50_fpn_syncbn-backbone+head_ms-range-1x_coco.py",
    "mmdet/retinanet/retinanet_r18_fpn_1x_coco.py",
    "mmdet/rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py",
    "mmdet/sabl/sabl-retinanet_r50_fpn_1x_coco.py",
    "mmdet/solo/solo_r18_fpn_8xb8-lsj-200e_coco.py",
    "mmdet/ssd/ssd300_coco.py",
    "mmdet/tood/tood_r50_fpn_1x_coco.py",
    "mmdet/tridentnet/tridentnet_r50-caffe_1x_coco.py",
    "mmdet/vfnet/vfnet_r50_fpn_1x_coco.py",
    "mmdet/yolact/yolact_r50_1xb8-55e_coco.py",
    "mmdet/yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py",
    "mmdet/yolox/yolox_tiny_8xb8-300e_coco.py",
    "mmseg/bisenetv1/bisenetv1_r18-d32-in1k-pre_4xb4-160k_cityscapes-1024x1024.py",
    "mmseg/bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py",
    "mmseg/cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py",
    "mmseg/ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py",
    "mmseg/emanet/emanet_r101-d8_4xb2-80k_cityscapes-512x1024.py",
    "mmseg/encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "mmseg/erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py",
    "mmseg/fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py",
    "mmseg/hrnet/fcn_hr18s_4xb2-160k_cityscapes-512x1024.py",
    "mmseg/icnet/icnet_r18-d8-in1k-pre_4xb2-160k_cityscapes-832x832.py",
    "mmseg/knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py",
    "mmseg/mobilenet_v2/mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024.py",
    "mmseg/mobilenet_v3/mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024.py",
    "mmseg/pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py",
    "mmseg/point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py",
    "mmseg/segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py",
    "mmseg/segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py",
    "mmseg/stdc/stdc1_in1k-pre_4xb12-80k_cityscapes-512x1024.py",
    "mmseg/swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py",
    "mmseg/unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py",
)

#: passes that the unchanged model does not run either, in some version
NOT_RUN = {
    "mmdet/ssd/ssd300_coco.py": {"predict": "AttributeError: 'SSDHead' object has no attribute 'loss_cls'"},
}


def test_the_sample_is_shipped_and_has_many_families():
    assert set(SAMPLE) <= {name for package in ("mmdet", "mmseg") for name in shipped_configs.shipped(package)}
    assert len({shipped_configs.family(name) for name in SAMPLE}) >= 40


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_config(name):
    """Each activation is an ACON with the right channels or has a reason to stay; weights load and gradients flow."""
    result = check(shipped_configs.model_of(name), name.partition("/")[0], dict(type="AconC"))
    assert (result["status"], result["problems"]) == ("converted", {})
    assert result["converted"] >= result["sites"] > 0
    not_run = {step: error.partition(" (")[0] for step, error in result["not_run"].items()}
    assert not_run.items() <= NOT_RUN.get(name, {}).items()
    assert [*result["passes"], *not_run] == ["loss", "predict"]
    assert result["not_reached"] == 0
