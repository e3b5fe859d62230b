"""The GPU's part of a calibration: fits of made-up points, and all of the measuring on a torch made of numpy."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.calibrate import accelerator, cuda, document, stand_in
from moesim.calibrate.budget import Budget
from moesim.calibrate.cuda import SIZES, TOKENS, Copy, GpuPoints, Work
from moesim.calibrate.summary import gpu_lines
from moesim.errors import InputError
from moesim.hardware import Gpu, Link, Memory, Roofline
from moesim.scenario.checking import check

READ, PEAK = 1e12, 200e12
EXPERTS = Roofline(streaming=0.8, efficiency=0.6, q=1.5, half=4.0)
GEMM = Roofline(streaming=0.7, efficiency=0.9, q=3.0)


def work(number: int, line: Roofline, launch: float) -> tuple[Work, ...]:
    timed = []
    for hidden, width in ((2048, 768), (4096, 14336)):
        weights = 3.0 * hidden * width
        for tokens in TOKENS:
            seconds = float(line.bulk((tokens + line.half) * 2 * weights, 2 * weights, line.stream(READ), PEAK))
            timed.append(Work(hidden, width, number, tokens, launch + number * seconds))
    return tuple(timed)


def points() -> GpuPoints:
    copies = [
        Copy(pinned, to_gpu, size, max(1.5e-5 + size / (25e9 if to_gpu else 20e9), 2.5e-5) * (1 if pinned else 3))
        for pinned in (True, False)
        for to_gpu in (True, False)
        for size in SIZES
    ]
    alone, grouped = work(1, GEMM, 0.0), work(8, EXPERTS, 2e-5)
    return GpuPoints("a GPU", "torch 0", 24e9, READ, PEAK, tuple(copies), 40e9, alone, grouped, 0.75e12, 1e-7, 6e-5)


def test_constants_are_found_again() -> None:
    fitted = accelerator.fit(points())
    assert fitted["copies"].values == pytest.approx({"rate": 25e9, "reverse": 20e9, "setup": 1.5e-5, "floor": 2.5e-5}, rel=0.02)
    expected = {"streaming": 0.8, "efficiency": 0.6, "q": 1.5, "half": 4.0, "launch": 2e-5}
    assert fitted["experts"].values == pytest.approx(expected, rel=0.05)
    assert fitted["gemm"].values == pytest.approx({"streaming": 0.7, "efficiency": 0.9, "q": 3.0}, rel=0.05)
    for point in fitted.values():
        assert point.tested.points > 0
        assert point.tested.worst < 0.03


def test_test_points_do_not_move_a_fit() -> None:
    plain = points()
    bent = [
        point if TOKENS.index(point.tokens) % 2 == 0 else point._replace(seconds=2 * point.seconds) for point in plain.grouped
    ]
    again = accelerator.fit(plain._replace(grouped=tuple(bent)))["experts"]
    assert again.values == accelerator.fit(plain)["experts"].values
    assert again.tested.median == pytest.approx(0.5, abs=0.02)


def test_values_make_a_gpu_its_memory_and_its_link(tmp_path: Path) -> None:
    measured = points()
    parts = accelerator.parts(measured, accelerator.fit(measured), "measured here")
    for name, part in parts.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(document.text(part, []), "utf-8")
        assert check([path])["files"][0]["errors"] == []
    assert set(parts["gpu"]) <= set(Gpu.model_fields)
    assert set(parts["memory"]) <= set(Memory.model_fields)
    assert set(parts["link"]) <= set(Link.model_fields)
    assert parts["link"]["both"].value == "40 GB/s"
    assert parts["gpu"]["attention"]["streaming"].value == 0.75
    assert "measured here: a GPU, torch 0" in parts["gpu"]["compute"].source
    text = "\n".join(gpu_lines(measured, accelerator.fit(measured)))
    assert "pinned copies" in text
    assert "grouped experts" in text


class Tensor(np.ndarray):
    """As much of a torch tensor as is used."""

    def copy_(self, source: Any, non_blocking: bool = False) -> Any:
        np.copyto(self, source)
        return self

    def add_(self, number: float) -> Any:
        self += number
        return self


def _tensor(array: Any) -> Any:
    return np.asarray(array).view(Tensor)


def _attend(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.swapaxes(-1, -2)
    return scores @ v


def fake() -> Any:
    """torch with a GPU."""
    properties = SimpleNamespace(name="fake GPU", total_memory=1e9, L2_cache_size=1000)
    functional = SimpleNamespace(linear=lambda x, w: x @ w.T, scaled_dot_product_attention=_attend)
    return SimpleNamespace(
        __version__="0.0",
        version=SimpleNamespace(cuda="0"),
        bfloat16=np.float32,
        float32=np.float32,
        uint8=np.uint8,
        full=lambda shape, value, dtype, device: _tensor(np.full(shape, value, dtype)),
        ones=lambda size, dtype, pin_memory: _tensor(np.ones(size, dtype)),
        bmm=lambda a, b: a @ b,
        inference_mode=contextlib.nullcontext,
        nn=SimpleNamespace(functional=functional),
        cuda=SimpleNamespace(
            synchronize=lambda: None,
            Stream=object,
            stream=lambda stream: contextlib.nullcontext(),
            get_device_properties=lambda index: properties,
        ),
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SIZES": (4096, 8192, 16384, 1 << 20),
        "_SHAPES": ((64, 32, 2), (64, 48, 2)),
        "_CLOCK": 1e-5,
        "_STREAM": 1e5,
        "_SQUARE": 64,
        "_SEQUENCES": 2,
        "_WIDTH": 16,
    }.items():
        monkeypatch.setattr(cuda, name, value)


@pytest.mark.usefixtures("small")
def test_all_of_the_measuring_on_a_fake() -> None:
    measured = cuda.measure(cuda.Gpu(fake()), Budget(0.5))
    assert (measured.name, measured.library, measured.capacity) == ("fake GPU", "torch 0.0, CUDA 0", 1e9)
    assert {(copy.pinned, copy.to_gpu, copy.nbytes) for copy in measured.copies} == {
        (pinned, to_gpu, size) for pinned in (True, False) for to_gpu in (True, False) for size in (4096, 8192, 16384, 1 << 20)
    }
    assert len(measured.alone) == len(measured.grouped) == 2 * len(TOKENS)
    numbers = [measured.read, measured.peak, measured.both, measured.kv_rate, measured.launch, measured.round_trip]
    numbers += [point.seconds for point in (*measured.copies, *measured.alone, *measured.grouped)]
    assert all(0 < number < float("inf") for number in numbers)
    fits = accelerator.fit(measured)
    parts = accelerator.parts(measured, fits, "here")
    assert parts["gpu"]["fixed"]["layer"].basis == ("measured" if fits["experts"].trust.holds else "assumed")


@pytest.mark.usefixtures("small")
def test_what_does_not_fit_is_left_out() -> None:
    assert cuda._cases(1e9, alone=False)
    assert cuda._cases(1e3, alone=False) == []
    assert {experts for _, _, experts, _ in cuda._cases(1e9, alone=True)} == {1}


def test_a_machine_without_a_gpu_takes_a_named_one_and_says_so() -> None:
    parts = stand_in.stand_in("rtx-4090")
    assert parts["gpu"]["compute"].value == "165.2 TFLOPS"
    assert parts["memory"]["capacity"].value == "24 GB"
    assert parts["link"]["serial"] is True
    for part in parts.values():
        for value in part.values():
            if isinstance(value, document.Value):
                assert value.basis == "assumed"
                assert value.source.startswith("no GPU was measured on this machine")
                assert "profile rtx-4090" in value.source


def test_a_whole_system_may_be_named_for_its_gpu() -> None:
    assert stand_in.stand_in("rtx4090-desktop")["gpu"]["compute"].value == "165.2 TFLOPS"


@pytest.mark.parametrize("name", ["rtx-409", "xeon-8452y", "hbm-h200"])
def test_what_is_not_a_gpu_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        stand_in.stand_in(name)
