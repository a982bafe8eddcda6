# SPDX-License-Identifier: Apache-2.0
"""The consumed records of one scene, on disk once they are many: memory does not grow with the number of frames."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator

SPOOL_BYTES = 8 << 20  # records of a scene wait in memory up to here, then on disk


class RecordSpool:
    """An append-only list of record texts that can be read as often as wanted, and sent to another process."""

    def __init__(self, data: bytes = b"") -> None:
        self._file = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - lives as long as this object
        self._file.write(data)

    def append(self, text: str) -> None:
        """Add the text of one record, without a newline."""
        self._file.write(text.encode() + b"\n")

    def __iter__(self) -> Iterator[dict]:
        """Yield the records, parsed; one reader at a time."""
        self._file.seek(0)
        try:
            for line in self._file:
                yield json.loads(line)
        finally:
            if not self._file.closed:  # the reader was dropped together with the spool
                self._file.seek(0, 2)

    def __reduce__(self) -> tuple:
        self._file.seek(0)
        return RecordSpool, (self._file.read(),)
