"""Files that take the place of older ones whole, or leave them as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

_KEPT = 32
"""Characters of a name in that of its temporary file: a name may be as long as the disk allows."""


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """A file that becomes `path` where the block ends, and is gone where it raises.

    Until then it lies beside it as `.<name>-….part`, which only a kill leaves behind.

    Args:
        path: In a folder that is there.
        durable: Wait until the disk has the content.

    Yields:
        The file, open for writing bytes.

    Raises:
        OSError: It cannot be written; what was at `path` is untouched.
    """
    with NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name[:_KEPT]}-", suffix=".part", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    """Of the process, which temporary files do not follow."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
