"""A walk through a config."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config


def settings(node: Any) -> Iterator[tuple[list[str], dict]]:
    """All dictionaries in a config, with their places, level by level."""
    level: list[tuple[list[str], Any]] = [([], node)]
    while level:
        below = []
        for place, part in level:
            if isinstance(part, (dict, Config)):
                yield place, part
            pairs = part.items() if isinstance(part, (dict, Config)) else enumerate(part)
            below += [([*place, str(k)], v) for k, v in pairs if isinstance(v, (dict, list, tuple))]
        level = below
