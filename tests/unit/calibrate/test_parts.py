"""Parts of a calibration on made-up machines and made-up times: what is read, fitted and written."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from moesim.calibrate import document, experts, profile, summary
from moesim.calibrate.bandwidth import Rates, Sweep, counts, size_for
from moesim.calibrate.budget import Budget, fastest
from moesim.calibrate.document import Value
from moesim.calibrate.experts import HELD_OUT, Curve, Point, curve, shapes
from moesim.calibrate.latency import Latency, Load
from moesim.calibrate.libraries import numpy_products, numpy_rows
from moesim.calibrate.machine import cpu_list, read_machine
from moesim.calibrate.trust import Trust
from moesim.errors import InputError, MoesimError
from moesim.hardware import Cpu, Kernel, Memory


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def job(self, *seconds: float):
        """Takes the next of `seconds` each time, the last one for ever."""
        left = list(seconds)

        def run() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_the_fastest_of_several_turns_in_rounds() -> None:
    clock = Clock()
    assert fastest([clock.job(3, 1, 2), clock.job(5, 4)], Budget(100, clock), turns=3) == [1, 4]


def test_a_budget_is_not_overspent() -> None:
    clock = Clock()
    assert fastest([clock.job(1), clock.job(4), clock.job(1)], Budget(3, clock)) == [1, 4, math.inf]
    assert clock.now == 5  # a call that has begun is not cut off
    assert Budget(0, clock).left == 0


def test_what_has_to_be_measured_is_measured_without_a_budget() -> None:
    clock = Clock()
    assert fastest([clock.job(1), clock.job(2), clock.job(3)], Budget(0, clock), least=2) == [1, 2, math.inf]


def test_an_expensive_call_leaves_turns_to_cheap_ones() -> None:
    clock, calls = Clock(), [0, 0]

    def count(index: int, seconds: float):
        def run() -> None:
            calls[index] += 1
            clock.now += seconds

        return run

    fastest([count(0, 0.1), count(1, 10)], Budget(40, clock))
    assert calls[0] > 20 * calls[1]


def machine(root: Path) -> Path:
    """Two sockets with two threads per core and an expander."""
    node, cpu = root / "sys/devices/system/node", root / "sys/devices/system/cpu"
    for number, cpus in enumerate(("0-1,4-5", "2-3,6-7", "")):
        place = node / f"node{number}"
        place.mkdir(parents=True)
        (place / "cpulist").write_text(cpus + "\n")
        (place / "meminfo").write_text(f"Node {number} MemTotal:  {64_000_000 * (number + 1)} kB\n")
        (place / "distance").write_text("10 21 14\n")
    for number in range(8):
        place = cpu / f"cpu{number}/topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    (cpu / "cpu0/cache/index3").mkdir(parents=True)
    (cpu / "cpu0/cache/index3/size").write_text("2048K\n")
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    (root / "proc/cpuinfo").write_text("processor : 0\nmodel name : A  CPU @ 2 GHz\n")
    (root / "sys/kernel/mm/transparent_hugepage").mkdir(parents=True)
    (root / "sys/kernel/mm/transparent_hugepage/enabled").write_text("always [madvise] never\n")
    return root


def test_a_node_without_processors_is_an_expander(tmp_path: Path) -> None:
    hardware = read_machine(machine(tmp_path))
    assert hardware.cpu == "A CPU @ 2 GHz"
    assert [node.cpus for node in hardware.nodes] == [(0, 1), (2, 3), ()]
    assert [node.capacity for node in hardware.nodes] == [65536e6, 131072e6, 196608e6]
    assert hardware.nodes[0].distances == {0: 10, 1: 21, 2: 14}
    assert (hardware.cache, hardware.available, hardware.huge_pages) == (2048 * 1024, 5000 * 1024, "madvise")
    assert hardware.home.number == 0


def test_a_system_that_tells_nothing_is_one_node(tmp_path: Path) -> None:
    hardware = read_machine(tmp_path)
    assert [node.number for node in hardware.nodes] == [0]
    assert hardware.home.cpus
    assert hardware.home.capacity > 0


def test_numbers() -> None:
    assert cpu_list("0-3,8\n") == [0, 1, 2, 3, 8]
    assert cpu_list("") == []
    assert counts(1) == [1]
    assert counts(6) == [1, 2, 4, 6]
    assert size_for(100e6, 1e12, 1e3) // 4096 == int(400e6) // 4096
    assert size_for(100e6, 1e12, 0.0) == 16 << 20


@pytest.mark.parametrize("library", [numpy_rows(), numpy_products()], ids=lambda library: library.name)
def test_libraries_compute_the_same_expert(library) -> None:
    rng = np.random.default_rng(0)
    expert = tuple(rng.normal(size=shape).astype(np.float32) for shape in ((5, 8), (5, 8), (8, 5)))
    x = rng.normal(size=(3, 8)).astype(np.float32)
    right = ((x @ expert[0].T) * (x @ expert[1].T)) @ expert[2].T
    assert np.array(library.run(x, expert)) == pytest.approx(right, rel=1e-4, abs=1e-5)


def points(kernel: Kernel, noise: float = 0.0) -> list[Point]:
    library, measured = numpy_products(), []
    rng = np.random.default_rng(0)
    for shape in shapes():
        for tokens in library.tokens:
            seconds = float(kernel.seconds(tokens, 4 * shape.weights, 2 * shape.weights, None))
            chosen = shape.model != HELD_OUT and library.tokens.index(tokens) % 2 == 0
            measured.append(Point(library.name, shape, tokens, 4 * shape.weights, seconds * (1 + noise * rng.normal()), chosen))
    return measured


def test_a_curve_is_found_again_and_tested_on_other_points() -> None:
    fitted = curve(numpy_products(), points(Kernel(bandwidth=2e10, rate=3e11, q=1.4)), 3e10)
    assert fitted is not None
    assert (fitted.kernel.bandwidth, fitted.kernel.rate, fitted.kernel.q) == pytest.approx((2e10, 3e11, 1.4), rel=0.01)
    assert fitted.fitted.worst < 0.02
    assert fitted.tested.worst < 0.02
    assert (fitted.fitted.points, fitted.tested.points) == (10, 20)
    assert fitted.tokens == (2, 1024)


def test_test_points_do_not_move_a_curve() -> None:
    plain = points(Kernel(bandwidth=2e10, rate=3e11, q=1.4), 0.03)
    bent = [point if point.fitted else point._replace(seconds=2 * point.seconds) for point in plain]
    first, second = (curve(numpy_products(), measured, 3e10) for measured in (plain, bent))
    assert first is not None
    assert second is not None
    assert first.kernel == second.kernel
    assert second.tested.median > 0.4


def test_no_kernel_streams_faster_than_its_memory() -> None:
    fitted = curve(numpy_products(), points(Kernel(bandwidth=9e10, rate=3e11, q=1.4)), 2e10)
    assert fitted is not None
    assert fitted.kernel.bandwidth == pytest.approx(1.25 * 2e10)


def test_too_few_points_give_no_curve() -> None:
    assert curve(numpy_products(), points(Kernel(bandwidth=2e10, rate=3e11))[:3], 3e10) is None
    assert curve(numpy_rows(), points(Kernel(bandwidth=2e10, rate=3e11)), 3e10) is None


def test_expensive_shapes_wait_for_a_larger_budget() -> None:
    measured = experts.measure([numpy_rows()], 1e6, 4e9, Budget(0.5))
    assert {point.shape.model for point in measured} <= {"qwen3-30b-a3b", "deepseek-v2-lite"}
    assert len(measured) >= experts.LEAST
    assert all(point.seconds > 0 for point in measured)


def test_loaded_latency() -> None:
    shares = [0.1, 0.3, 0.6, 0.9]
    seconds = [1e-7 * (1 + 0.2 * u / (1 - u + 0.15)) for u in shares]
    fitted = profile.load_fit(1e-7, shares, seconds)
    assert fitted is not None
    assert fitted.k == pytest.approx(0.2)
    assert fitted.tested.worst < 1e-3
    assert fitted.reach == 0.9
    assert profile.load_fit(1e-7, [0.5], [2e-7]) is None


GPU = {
    "gpu": {"kind": "gpu", "compute": Value("100 TFLOPS", "assumed", "x")},
    "memory": {"kind": "hbm", "capacity": Value("24 GB", "assumed", "x"), "read": Value("1 TB/s", "assumed", "x")},
    "link": {"kind": "link", "rate": Value("25 GB/s", "assumed", "x"), "serial": True},
}


def built(root: Path, *curves: Curve) -> dict:
    hardware = read_machine(machine(root))
    sweep = Sweep(0, (Rates(1, 1e10, 5e9, 1.2e10), Rates(2, 2e10, 9e9, 2.4e10)), 1 << 20, False)
    chased = Latency(0, 1e-7, (Load(5e9, 1.1e-7), Load(1e10, 1.3e-7)))
    memories = [
        profile.Memory(hardware.nodes[0], sweep, chased),
        profile.Memory(hardware.nodes[1], sweep._replace(node=1), None, "nothing to chase with"),
        profile.Memory(hardware.nodes[2], sweep._replace(node=2), Latency(2, 3e-7, ())),
    ]
    fitted = curve(numpy_products(), points(Kernel(bandwidth=2e10, rate=3e11, q=1.4)), 3e10)
    assert fitted is not None
    processor = profile.Processor(curves or [fitted], 5e-6, 3e9)
    return profile.machine_profile("m", hardware, memories, processor, GPU, "a source, 'quoted'")


def test_every_node_becomes_a_tier_and_the_file_loads(tmp_path: Path) -> None:
    from moesim.scenario import load

    text = document.text(built(tmp_path / "root"), ["a comment: of [all] kinds"])
    document.write(tmp_path / "m.yaml", text)
    (tmp_path / "s.yaml").write_text("extends: quickstart\nhardware: ./m.yaml\n", "utf-8")
    loaded = load(tmp_path / "s.yaml")
    system = loaded.scenario.hardware
    assert {name: tier.kind for name, tier in system.tiers.items()} == {
        "hbm": "hbm", "ddr": "ddr", "remote1": "remote", "cxl2": "cxl",
    }  # fmt: skip
    ddr, cpu = system.tiers["ddr"], system.devices["cpu"]
    assert isinstance(ddr, Memory)
    assert isinstance(cpu, Cpu)
    assert (ddr.read, ddr.write, ddr.total, ddr.latency) == (2e10, 9e9, 2.4e10, 1e-7)
    assert cpu.kernels["numpy_fp32"].rate == 3e11
    origins = loaded.provenance
    assert origins["hardware.tiers.ddr.read"].basis == "measured"
    assert "too small to keep caches out" in origins["hardware.tiers.ddr.read"].source
    assert origins["hardware.tiers.remote1.latency"].basis == "assumed"
    assert "nothing to chase with" in origins["hardware.tiers.remote1.latency"].source
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["m.yaml", "root", "s.yaml"]


def disturbed(measured: list[Point], name: str = "numpy_fp32", times: float = 20.0) -> list[Point]:
    """The points of a library; one of those that are fitted on took `times` as long, for another program ran beside it."""
    own = [point._replace(kernel=name) for point in measured]
    slow = next(number for number, point in enumerate(own) if point.fitted)
    own[slow] = own[slow]._replace(seconds=times * own[slow].seconds)
    return own


def test_a_fit_that_misses_a_point_by_more_than_half_is_marked_and_reported(tmp_path: Path) -> None:
    from moesim.scenario import load

    bad = curve(numpy_products(), disturbed(points(Kernel(bandwidth=2e10, rate=3e11, q=1.4))), 3e10)
    assert bad is not None
    assert not bad.trust.holds
    (warning,) = summary.warning_lines([], [bad], {})[:1]
    assert warning.startswith("warning: the fit of experts on the CPU by numpy_fp32 misses a point by ")
    assert "where 50 % is the most that counts as measured" in warning
    built_one = built(tmp_path / "root", bad)
    document.write(tmp_path / "m.yaml", document.text(built_one, [warning]))
    (tmp_path / "s.yaml").write_text("extends: quickstart\nhardware: ./m.yaml\n", "utf-8")
    origin = load(tmp_path / "s.yaml").provenance["hardware.devices.cpu.kernels.numpy_fp32.bandwidth"]
    assert origin.basis == "assumed"
    assert "misses a point by" in origin.source
    value = built_one["devices"]["cpu"]["kernels"]["numpy_fp32"]["bandwidth"]
    low, high = (float(end.split()[0]) for end in value.spread)
    middle = float(value.value.split()[0])
    assert low == pytest.approx(middle * bad.trust.least, rel=1e-3)
    assert high >= middle >= low
    assert f"# {warning}" in (tmp_path / "m.yaml").read_text("utf-8")


def test_a_kernel_of_a_bad_fit_is_not_used_beside_a_good_one(tmp_path: Path) -> None:
    plain = points(Kernel(bandwidth=2e10, rate=3e11, q=1.4))
    good, rows = curve(numpy_products(), plain, 3e10), numpy_rows()
    bad = curve(rows, disturbed(plain, rows.name), 3e10)
    assert good is not None
    assert bad is not None
    cpu = built(tmp_path / "root", bad, good)["devices"]["cpu"]
    assert cpu["experts"]["use"] == ["numpy_fp32"]
    assert cpu["kernels"]["numpy_fp32"]["rate"].basis == "measured"
    assert cpu["kernels"]["numpy_fp32"]["rate"].spread is None
    assert cpu["kernels"][rows.name]["rate"].basis == "assumed"
    assert len(summary.warning_lines([], [good, bad], {})) == 1


@pytest.mark.parametrize(
    ("ratio", "holds"), [(1.0, True), (0.51, True), (0.49, False), (1.49, True), (1.51, False), (22.76, False)]
)
def test_half_is_the_most_that_counts_as_measured(ratio: float, holds: bool) -> None:
    trust = Trust.of([1.0, ratio], [1.0, 1.0])
    assert trust.holds is holds
    value = trust.rate(1e9, "B/s", "x")
    assert (value.basis, value.spread is None) == (("measured", True) if holds else ("assumed", False))
    assert bool(trust.warning("x")) is not holds


def test_a_profile_that_does_not_load_is_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("before", "utf-8")
    wrong = built(tmp_path / "root") | {"tiers": {}}
    with pytest.raises(MoesimError, match="would not load"):
        document.write(tmp_path / "m.yaml", document.text(wrong, []))
    assert (tmp_path / "m.yaml").read_text("utf-8") == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.yaml", "root"]


def test_only_our_own_files_are_replaced(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.yaml", tmp_path / "theirs.yaml"
    ours.write_text(document.text({"kind": "system"}, []), "utf-8")
    theirs.write_text("kind: system\n", "utf-8")
    assert document.writable(ours) == ours
    for path in (theirs, ours / "below-a-file.yaml", tmp_path / "words.txt", tmp_path):
        with pytest.raises(InputError):
            document.writable(path)


def test_values_as_text() -> None:
    part = {"a": Value("1 GB/s", "measured", 'say "x": y'), "b": {"c": Value([1, 2.5], "assumed", "")}, "on": True, "d": "on"}
    assert document.text(part, []).splitlines()[1:] == [
        'a: {value: "1 GB/s", basis: measured, source: "say \\"x\\": y"}',
        "b:",
        '  c: {value: [1, 2.5], basis: assumed, source: ""}',
        "on: true",
        'd: "on"',
        "",
    ]
    assert document.quantity(12.345678e9, "B/s") == "12.35 GB/s"
    assert document.quantity(1.5e-7, "ns") == "150 ns"
    assert document.quantity(5e-6, "s") == "5 us"
