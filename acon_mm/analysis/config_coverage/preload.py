"""Imports what all checks need. New processes are copies of one that has imported this and has computed nothing yet."""

from ..torchvision_import import import_torchvision

import_torchvision()

import mmdet.datasets  # noqa: E402
import mmdet.models  # noqa: E402, F401
import mmseg.datasets  # noqa: E402
import mmseg.models  # noqa: E402, F401
import torch._dynamo  # noqa: E402, F401

from . import check_all  # noqa: E402, F401
