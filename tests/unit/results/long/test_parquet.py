"""Tables as Parquet files: in parts what they are at once."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from moesim.results.long.parquet import parquet_parts
from moesim.results.long.table import LongTable

pytest.importorskip("pyarrow")


def columns(rows: slice) -> dict[str, np.ndarray]:
    numbers = np.arange(rows.start, rows.stop)
    return {"step": numbers, "phase": np.array(["decode"] * len(numbers), dtype=object), "time_s": numbers / 3}


@pytest.mark.parametrize("rows", [0, 5, 9000])
def test_a_table_in_parts_reads_back_as_the_whole_one(rows: int) -> None:
    pieces = list(parquet_parts(LongTable(rows, columns)))
    assert len(pieces) == max(-(-rows // 4096), 1) + 1
    read = pd.read_parquet(io.BytesIO(b"".join(pieces)))
    assert read.equals(pd.DataFrame(columns(slice(0, rows))))


def test_a_short_table_has_the_bytes_that_pandas_writes() -> None:
    table = columns(slice(0, 7))
    assert b"".join(parquet_parts(table)) == pd.DataFrame(table).to_parquet(None, index=False)
