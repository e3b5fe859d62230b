"""The bill of materials of a machine: what each part costs, and how much of it there is.

Knows prices of parts; nothing of a run.
"""

from __future__ import annotations

from typing import NamedTuple

from moesim.hardware.memory import Memory
from moesim.hardware.system import System
from moesim.units import format_bytes

__all__ = ["BillLine", "bill", "machine_price"]


class BillLine(NamedTuple):
    """One part that has to be bought."""

    part: str
    """Its place in the machine: `devices.gpu`, `tiers.ddr`, `links.pcie`."""
    name: str
    """What it is called: the file name of its profile; empty for a part that was written out."""
    amount: str
    """How much of it: the capacity of a memory and its price per GB; empty for parts that are bought whole."""
    usd: float | None
    """None where no price is known."""


def bill(system: System) -> list[BillLine]:
    """Devices, memories and links, in the order of the machine.

    A GPU brings its memory, which has a line only where it has a price of its own; a link that costs nothing has none.
    """
    lines = [BillLine(f"devices.{name}", device.name, "", device.price) for name, device in system.devices.items()]
    for name, tier in system.tiers.items():
        if isinstance(tier, Memory) and (tier.price is not None or not system.is_gpu_memory(name)):
            rate = "" if tier.price is None else f" at {tier.price * 1e9:.4g} USD/GB"
            usd = None if tier.price is None else tier.capacity * tier.price
            lines.append(BillLine(f"tiers.{name}", tier.name, f"{format_bytes(tier.capacity)}{rate}", usd))
    return lines + [BillLine(f"links.{name}", link.name, "", link.price) for name, link in system.links.items() if link.price]


def machine_price(system: System) -> float | None:
    """USD of all parts together; None where a part has no price, or nothing costs anything."""
    return system.price if not system.price_unknown and system.price > 0 else None
