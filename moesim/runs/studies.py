"""The studies that may go beside a run: other machines that meet the same requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moesim.progress import bar
from moesim.scenario.scenario import LoadedScenario

if TYPE_CHECKING:
    from moesim.runs.better import Better
    from moesim.runs.uncertainty import Study

__all__ = ["studies"]


def studies(loaded_scenario: LoadedScenario, draws: int | None, factor: float | None) -> dict[str, Study | Better]:
    """Name -> outcome: of `draws` machines drawn from the spreads, and of parts made `factor` times as good."""
    outcomes: dict[str, Study | Better] = {}
    if draws is not None:
        from moesim.runs.uncertainty import study

        with bar("drawing", "machines") as progress:
            outcomes["uncertainty"] = study(loaded_scenario, draws, progress=progress)
    if factor is not None:
        from moesim.runs.better import better

        with bar("improving", "parts") as progress:
            outcomes["better"] = better(loaded_scenario, factor, progress=progress)
    return outcomes
