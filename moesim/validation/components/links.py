"""Owns the published measurements of copies over PCIe: pinned and pageable by size, effective rates of hosts.

Knows links, their fits and profiles; copies are priced by the cost models that runs use.
"""

from __future__ import annotations

from typing import Any

from moesim.clock import to_ps
from moesim.fit import copies, published
from moesim.hardware import Link, System
from moesim.runs.run import run
from moesim.validation.case import Case, Findings, Row
from moesim.validation.oracles import toy
from moesim.validation.oracles.queues import side_by_side
from moesim.validation.parts import Curve, machine, picture, profile, worst

__all__ = ["HOSTS", "SIZES", "host"]

PINNED_FIT, PAGEABLE_FIT = (65536, 1048576, 16777216, 1410000000), (1048576, 16777216, 1410000000)
_EXPERT = 3 * 4096 * 14336 * 2.0
"""Bytes of an expert of Mixtral-8x7B in BF16."""
BOTH_WAYS = 25.2e9
"""Published B/s each way when both are busy."""


def host(link: dict[str, Any]) -> System:
    """A toy machine whose PCIe is `link`."""
    plain = toy.hardware(ddr=1e15)
    return machine(plain["devices"], plain["tiers"], {"pcie": {**link, "ends": ["host", "gpu"]}})


def _sizes() -> Findings:
    pinned, pageable = copies.pinned(), copies.pageable()
    values = {"kind": "link", "serial": True, "rate": pinned["rate"], "setup": pinned["setup"], "floor": pinned["floor"]}
    path = host(values).path("ddr", "hbm")
    curves = [
        _curve("pinned", published.PINNED, PINNED_FIT, lambda x: 1e6 * path.seconds(x)),
        _curve("pageable", published.PAGEABLE, PAGEABLE_FIT, lambda x: 1e6 * copies.pageable_seconds(pageable.parameters, x)),
    ]
    rows = [row for curve in curves for row in curve.rows(0.05, "{label}, {x:,.0f} B, us")]
    shipped = profile("pcie4-x16")
    rows.append(Row("both directions at once, GB/s each", BOTH_WAYS / 1e9, _both_ways(shipped) / 1e9, 0.05, fitted=True))
    two, alone = _two_uploads(values), float(path.seconds(_EXPERT))
    lines = (
        f"Pinned: max({1e6 * pinned['floor']:.1f} us, {1e6 * pinned['setup']:.1f} us + bytes / {pinned['rate'] / 1e9:.1f} "
        "GB/s), "
        "fitted on 64 KiB, 1 MiB, 16 MiB and 1.41 GB.",
        f"Pageable: {1e6 * pageable['setup']:.1f} us + bytes / {pageable['rate_cached'] / 1e9:.1f} GB/s for sources in the "
        "host's "
        f"cache, {pageable['rate'] / 1e9:.1f} GB/s beyond, fitted on 1 MiB, 16 MiB and 1.41 GB. {worst(rows)}",
        f"Two copies of 352 MB wanted at once end, by the engine, after {two / alone:.3f} times one alone: they stand in one "
        "queue.",
        f"Profile pcie4-x16: {shipped['setup']} + bytes / {shipped['rate']}, both directions together {shipped['both']}, "
        "which is "
        "twice the published 25.2 GB/s and so no test.",
    )
    return Findings(tuple(rows), arithmetic=lines, exhibits=(picture("copies", curves, "bytes", "us"),))


def _curve(label: str, points: dict[int, float], fitted: tuple[int, ...], simulated: Any) -> Curve:
    x, y = tuple(map(float, points)), tuple(1e6 * s for s in points.values())
    return Curve(label, x, y, simulated, frozenset(map(float, fitted)))


def _both_ways(link: dict[str, Any]) -> float:
    """B/s of each of two large copies in opposite directions that share the link's sum."""
    spec = Link.model_validate({**link, "ends": ["host", "gpu"]})
    rates: dict[str, float] = {"forward": spec.rate, "reverse": spec.backward, **({"both": spec.both} if spec.both else {})}
    nbytes = 10e9
    copies = [
        (int(to_ps(nbytes / rates[way])), [name for name in (way, "both") if name in rates]) for way in ("forward", "reverse")
    ]
    ends = side_by_side(rates, [(service, dict.fromkeys(names, nbytes)) for service, names in copies])
    return nbytes / (max(ends) / 1e12)


def _two_uploads(link: dict[str, Any]) -> float:
    """Seconds in which the engine uploads two experts of Mixtral (352 MB each) that are wanted at once."""
    parts = toy.hardware(ddr=1e15)
    parts["links"]["pcie"] = {**parts["links"]["pcie"], **_plain(link)}
    scenario = {
        "name": "copies",
        "hardware": parts,
        "model": "mixtral-8x7b",
        "workload": {"kind": "layer_batch", "tokens": 1, "routing": {"kind": "uniform"}, "profile": {"kind": "uniform"}},
    }
    summary = run(scenario, policy={"kind": "on_demand"}).summary
    read_back = float(host(link).path("hbm", "ddr").seconds(8.0))
    return float(summary["makespan_s"]) - read_back


def _plain(link: dict[str, Any]) -> dict[str, Any]:
    units = {"rate": "B/s", "setup": "s", "floor": "s"}
    return {key: f"{link[key]:g} {unit}" for key, unit in units.items()}


SIZES = Case(
    id="pcie-gen4-copies",
    kind="component",
    summary="Copies from pinned and pageable host memory to an RTX PRO 6000 over PCIe 4 x16, 4 KiB to 1.41 GB.",
    source=published.PLATFORM,
    runner=_sizes,
    fitted="pinned: floor, set-up, rate on 64 KiB, 1 MiB, 16 MiB, 1.41 GB; pageable: the same on the last three but a second "
    "rate for the floor",
)

H2D = {
    "T4, PCIe 3": (13.84, "pcie3-x16-t4"),
    "L4 in the cloud": (12.35, "pcie4-x16-l4-cloud"),
    "A40, PCIe 4": (19.5, "pcie4-x16-a40"),
    "A100, PCIe 4": (24.8, "pcie4-x16-a100"),
    "H100, PCIe 5, by kernel": (35.2, "pcie5-x16-kernel-copy"),
}
"""Host -> published GB/s from host to GPU, and the link's profile."""


def _hosts() -> Findings:
    rows = []
    for name, (published_rate, link) in H2D.items():
        reached = _EXPERT / float(host(profile(link)).path("ddr", "hbm").seconds(_EXPERT))
        rows.append(Row(f"{name}: one Mixtral expert, GB/s", published_rate, reached / 1e9, 0.05, fitted=True))
    a10 = _EXPERT / float(host(profile("pcie4-x16-a10")).path("ddr", "hbm").seconds(_EXPERT)) / 1e9
    rows.append(Row("A100 from the rate of another Gen4 server (A10), GB/s", H2D["A100, PCIe 4"][0], a10, 0.05))
    hosts = {"T4, PCIe 3": "pcie3-x16", "A40, PCIe 4": "pcie4-x16-a10", "H100, PCIe 5, by kernel": "pcie5-x16"}
    sentences = []
    for name, link in hosts.items():
        rate = _EXPERT / float(host(profile(link)).path("ddr", "hbm").seconds(_EXPERT)) / 1e9
        sentences.append(f"{name} {rate:.1f} for {H2D[name][0]:g} ({100 * (rate / H2D[name][0] - 1):+.0f} %)")
    lines = (
        "Each host's rate is the constant of its own link, so those rows only show that set-up costs a copy of 352 MB little.",
        f"Rates of other hosts of the same generation instead: {'; '.join(sentences)}. A host has to be measured.",
        f"FlexGen's constant for the T4 is 12.89 in GiB/s: {12.89 * 2**30 / 1e9:.2f} GB/s.",
    )
    return Findings(tuple(rows), arithmetic=lines)


HOSTS = Case(
    id="pcie-effective-by-host",
    kind="component",
    summary="Effective rate from host to GPU on five hosts.",
    source="measured: MoE-Lightning artifact (L4), FlexGen cost model (T4), MoE-Lens (A40), nvbandwidth issues (A100, H100)",
    runner=_hosts,
    fitted="the rate of each host is its own published number",
)
