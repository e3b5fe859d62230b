"""Owns routing by a measured popularity table: independent draws whose weights come from a CSV file.

Knows the file only through `csvfile`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray
from moesim.errors import InputError, Mistake
from moesim.streams import Streams
from moesim.units import format_count
from moesim.workload.csvfile import read_popularity
from moesim.workload.routing.law import Routed
from moesim.workload.routing.zipf import Independent

__all__ = ["PopularityTable"]


class PopularityTable(Independent):
    """Independent tokens, experts drawn without replacement with measured counts or shares as weights.

    Valid: the measured shares come back flatter where one expert takes much more than 1/k of its layer's tokens, because the
    weights of a draw without replacement are steeper than the shares they produce.
    """

    kind: Literal["popularity"] = "popularity"
    path: str = Field(min_length=1)
    """CSV with the columns layer, expert and count (or share), relative to the scenario's folder."""

    def popularity(self, layers: int, model: Routed, streams: Streams, base: Path) -> FloatArray:
        table = read_popularity(base / self.path, layers, model.experts)
        possible = np.count_nonzero(table, axis=1)
        if (possible < model.top_k).any():
            row = int((possible < model.top_k).argmax())
            number = format_count(int(possible[row]), "expert")
            message = f"layer {row} (from 0) has {number} above zero; top-{model.top_k} needs {model.top_k} or more"
            raise InputError(Mistake(message, file=str(base / self.path)))
        return table
