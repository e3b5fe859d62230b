"""A plug-in of pytest: whatever may run as plain Python does, so that its branches are seen."""

from __future__ import annotations

from moesim import jit

jit.repaid = lambda module, seconds, cold: False
