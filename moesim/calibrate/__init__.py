"""What this machine can do: measures memory, CPU experts and, where there is one, the GPU, and writes a system profile.

Knows hardware profiles and clocks, nothing of workloads or policies. Nothing heavy is imported here: a measurement chooses
the processors it stays on before the numerical libraries count them.
"""

from moesim.calibrate.run import Outcome, calibrate

__all__ = ["Outcome", "calibrate"]
