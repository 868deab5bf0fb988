"""SAN of mmseg: its perceptron, which calls ``F.relu`` after each layer but the last, and its text encoder."""

from ...hosts import LANGUAGE_MODEL, Host, register_sites


@register_sites("mmseg.models.text_encoder.clip_text_encoder.CLIPTextEncoder.forward")
class CLIPTextEncoderSites(Host):
    """The part of CLIP that reads the names of the classes."""

    reason_to_keep_all = LANGUAGE_MODEL
