"""Tables as Parquet files, part by part: a group of rows for each, so that a long table need not be in memory.

Knows columns; what writes files takes the bytes. Needs pyarrow, which is an extra.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from moesim.results.long.table import Table, parts

__all__ = ["parquet_parts"]


def parquet_parts(table: Table) -> Iterator[bytes]:
    """The bytes of a Parquet file of `table`, piece by piece; types of columns are those of the first part."""
    import pandas as pd
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    target, writer = _Pieces(), None
    for part in parts(table):
        schema = None if writer is None else writer.schema
        rows = pa.Table.from_pandas(pd.DataFrame(part), schema=schema, preserve_index=False)
        if writer is None:
            writer = ParquetWriter(target, rows.schema)
        writer.write_table(rows)
        yield target.taken()
    if writer is not None:
        writer.close()
    yield target.taken()


class _Pieces(io.RawIOBase):
    """A file that gives away what was written since it was last asked."""

    def __init__(self) -> None:
        self._fresh = bytearray()
        self._passed = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._fresh += data
        return len(data)

    def tell(self) -> int:
        return self._passed + len(self._fresh)

    def taken(self) -> bytes:
        """All since the last call."""
        fresh, self._fresh = bytes(self._fresh), bytearray()
        self._passed += len(fresh)
        return fresh
