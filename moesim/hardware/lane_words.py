"""What each lane of a machine does, in words that need no knowledge of its file: `PCIe upload`, `GPU compute`, `CXL read`.

Knows devices and links; nothing of a run.
"""

from __future__ import annotations

import re

from moesim.hardware.cpu import Cpu
from moesim.hardware.gpu import Gpu
from moesim.hardware.ndp import NearDataUnit
from moesim.hardware.paths import distances
from moesim.hardware.system import System

__all__ = ["lane_words"]

_SPELLED = {"pcie": "PCIe", "nvme": "NVMe", "cxl": "CXL", "nvlink": "NVLink", "c2c": "C2C", "rdma": "RDMA", "upi": "UPI",
            "gpu": "GPU", "cpu": "CPU", "ndp": "NDP", "ddr": "DDR", "hbm": "HBM"}  # fmt: skip
_KINDS = ((Gpu, "GPU"), (Cpu, "CPU"), (NearDataUnit, "near-data"))


def lane_words(system: System) -> dict[str, str]:
    """Lane (device or `<link>:forward|reverse`) -> its work in words.

    A link that ends at the GPU uploads to it and downloads from it; any other one is read where bytes come
    nearer to the GPU and written where they go away from it. Links of further GPUs, and between GPUs, lead to and from a GPU.
    """
    words = {name: _device(system, name) for name in system.devices}
    home = system.gpu.at
    far = distances(system.links, home) if home is not None else {}
    gpus = {system.node(name): name for name in system.further_gpus}
    from_host = {link for tier in system.host_tiers for link in system.path(tier, system.gpu_tier).links}
    for name, link in system.links.items():
        first, second = link.ends
        at = next((node for node in (second, first) if node in gpus), home if gpus and home in link.ends else None)
        if at is not None and name not in from_host:
            gpu = gpus.get(at, system.attending_gpu)
            towards, away = ("forward", "reverse") if second == at else ("reverse", "forward")
            words |= {f"{name}:{towards}": f"{_spelled(name)} to {gpu}", f"{name}:{away}": f"{_spelled(name)} from {gpu}"}
            continue
        at_gpu = home in link.ends
        inwards = far.get(second, 0) < far.get(first, 0)
        verbs = ("upload", "download") if at_gpu else ("read", "write")
        for direction, verb in zip(("forward", "reverse"), verbs if inwards else verbs[::-1], strict=True):
            words[f"{name}:{direction}"] = f"{_spelled(name)} {verb}"
    return words


def _device(system: System, name: str) -> str:
    device = system.devices[name]
    for kind, word in _KINDS:
        if isinstance(device, kind):
            alike = [device for device in system.devices.values() if isinstance(device, kind)]
            return f"{word} compute" if len(alike) == 1 or name == system.attending_gpu else f"{word} compute ({name})"
    return f"{_spelled(name)} compute"


def _spelled(name: str) -> str:
    """`cxl_a_link` -> `CXL a`, `pcie` -> `PCIe`, `cxl0_link` -> `CXL 0`."""
    numbered = re.sub(r"([a-zA-Z])(\d+)(?=_|\W|$)", r"\1 \2", name)
    pieces = [piece for piece in re.split(r"[_\W]+", numbered) if piece and piece != "link"]
    return " ".join(_SPELLED.get(piece.lower(), piece) for piece in pieces) or name
