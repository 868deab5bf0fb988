# The authors trained on pictures in BGR, 0..255, without normalisation: data_preprocessor=_base_.raw_bgr
raw_bgr = dict(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
