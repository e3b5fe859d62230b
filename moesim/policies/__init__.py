"""Who decides: the slots of a policy, the pieces that policies share, and one file per published system.

Knows models, machines and requests; nothing of events or time.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_ROOMS = ("kit", "baselines", "in_place", "caching", "streaming", "near_data", "bounds")


class _EarlierAddress(MetaPathFinder, Loader):
    """`moesim.policies.X` is the module X of whichever room has it: plug-ins were written when there were no rooms."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != __name__ or name in _ROOMS:
            return None
        homes = (f"{__name__}.{room}.{name}" for room in _ROOMS)
        home = next((home for home in homes if find_spec(home)), None)
        return ModuleSpec(fullname, self, loader_state=home) if home else None

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        sys.modules[spec.name] = import_module(spec.loader_state)


sys.meta_path.append(_EarlierAddress())
