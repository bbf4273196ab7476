"""How a version directory becomes visible: whole and durable, or not at all.

Model servers load a version as soon as they see ``saved_model.pb`` under a name that is a number. So it is filled under
another name on the same file system, and renamed when everything in it is on disk.
"""

from __future__ import annotations

import os
from pathlib import Path


def publish(filled: Path, target: Path) -> Path:
    """Show the directory ``filled`` as ``target``, readable by everybody; returns it. A version is never overwritten.

    Raises:
        FileExistsError: there is a ``target`` already.
    """
    if target.exists():
        raise FileExistsError(target)
    for path in [*filled.rglob("*"), filled]:
        path.chmod(0o755 if path.is_dir() else 0o644)  # the model server may run as somebody else
        _sync(path)
    return move(filled, target)


def move(source: Path, target: Path) -> Path:
    """Rename a directory that is durable already; durable on return."""
    source.rename(target)
    for folder in {source.parent, target.parent}:
        _sync(folder)
    return target


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
