"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from .errors import UserError


@contextmanager
def replacing(path: str | PathLike) -> Iterator[BinaryIO]:
    """A binary file to write. It takes the place of ``path`` at the end of the context, if nothing has failed.

    Until then the content is in a temporary file beside it. So a kill or a full disk leaves what was there, and what is
    written may come from memory-mapped tensors of the old file. A symbolic link stays one; its target is replaced.

    Raises:
        UserError: the file cannot be written; for example the disk is full.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{platform.node()}-{os.getpid()}-{target.name}")
    try:
        if target.exists() and not target.is_file():
            raise UserError(f"cannot write {path}: it is not a file")
        if target.exists() and not os.access(target, os.W_OK):
            raise UserError(f"cannot write {path}: it is read-only")
        if not target.parent.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if type(error) is RuntimeError else error  # torch.save replaces it by one of its own
        if not isinstance(cause, OSError):
            raise
        raise UserError(f"cannot write {path}: {cause.strerror or cause}") from error
    finally:
        with suppress(OSError):  # it has its new name, or was never made
            temporary.unlink()


def write_file(path: str | PathLike, content: str | bytes) -> None:
    """Write a whole file; see :func:`replacing`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str | PathLike, content: Any) -> None:
    write_file(path, json.dumps(content, indent=1))


def read_json(path: Path, *keys: str) -> Any:
    """The content of a JSON file, which is a dict if it has ``keys``; None if there is none, or it is damaged."""
    if not path.exists():
        return None
    with suppress(ValueError):
        content = json.loads(path.read_bytes())
        if not keys or (isinstance(content, dict) and set(keys) <= content.keys()):
            return content
    print(f"warning: {path} is damaged, and is not used", file=sys.stderr)
    return None
