"""Files of one JSON document that tells its kind and the version of its format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srbench.durable import replace_file
from srbench.errors import UsageError


@dataclass(frozen=True, slots=True)
class DocumentKind:
    """One kind of file.

    Attributes:
        name: Its `kind`.
        title: What it holds, for messages.
        version: The newest `schema_version` that this srbench reads, and the one it writes.
        remedy: What makes a damaged one anew.
    """

    name: str
    title: str
    version: int
    remedy: str

    def damaged(self, path: Path, what: str) -> UsageError:
        """The error of a file that is not what it should be."""
        return UsageError(f"{path}: damaged ({what}); {self.remedy}")


def write_document(path: Path, kind: DocumentKind, content: dict[str, Any]) -> None:
    """Replace a file at once: a reader sees the old one or the new one.

    Raises:
        UsageError: It cannot be written.
    """
    whole = {"kind": kind.name, "schema_version": kind.version, **content}
    try:
        replace_file(path, json.dumps(whole, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error


def read_document(path: Path, kind: DocumentKind) -> dict[str, Any] | None:
    """Read a file; None where there is none.

    Raises:
        UsageError: It is damaged, or written by a newer srbench.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise kind.damaged(path, "no JSON") from error
    if not isinstance(content, dict) or content.get("kind") != kind.name:
        raise kind.damaged(path, f"no {kind.title}")
    version = content.get("schema_version")
    if type(version) is not int or version < 1:
        raise kind.damaged(path, "no schema_version")
    if version > kind.version:
        raise UsageError(
            f"{path}: schema_version {version} is newer than {kind.version}, the newest that this "
            "srbench reads; upgrade srbench"
        )
    return content
