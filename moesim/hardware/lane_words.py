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
    nearer to the GPU and written where they go away from it. A link of a further GPU is named by that GPU.
    """
    words = {name: _device(system, name) for name in system.devices}
    home = system.gpu.at
    far = distances(system.links, home) if home is not None else {}
    further = {system.node(name): name for name in system.further_gpus}
    for name, link in system.links.items():
        first, second = link.ends
        gpu = further.get(first) or further.get(second)
        if gpu is not None:
            towards, away = ("forward", "reverse") if second in further else ("reverse", "forward")
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
            return f"{word} compute" if len(alike) == 1 else f"{word} compute ({name})"
    return f"{_spelled(name)} compute"


def _spelled(name: str) -> str:
    """`cxl_a_link` -> `CXL a`, `pcie` -> `PCIe`, `cxl0_link` -> `CXL 0`."""
    numbered = re.sub(r"([a-zA-Z])(\d+)(?=_|\W|$)", r"\1 \2", name)
    pieces = [piece for piece in re.split(r"[_\W]+", numbered) if piece and piece != "link"]
    return " ".join(_SPELLED.get(piece.lower(), piece) for piece in pieces) or name
