"""Owns OPT-30B on FlexGen's T4 host: the published speed of two policies beside its repository's fitted cost model.

Knows no scenario: the engine keeps weights outside the experts on the GPU, and those of OPT-30B's attention exceed a T4.
"""

from __future__ import annotations

from moesim.policies.streaming.flexgen_model import OPT_30B, T4_HOST, Shares, Split, layer_seconds, throughput
from moesim.validation.case import Case, Findings, Row

__all__ = ["CASE", "PUBLISHED"]

OUTPUT = 32
PUBLISHED = {
    512: (Shares(Split(0.20, 0.80), Split(0.0, 1.0), Split(0.0, 1.0), 48, 3), 7.32),
    1024: (Shares(Split(0.04, 0.96), Split(0.0, 1.0), Split(0.0, 1.0), 20, 4), 3.50),
}
"""Prompt -> the published policy and tok/s."""
_TOLERANCE = 0.10


def _findings() -> Findings:
    rows, lines = [], []
    for prompt, (shares, published) in PUBLISHED.items():
        rows.append(
            Row(f"prompt {prompt:,}: tok/s", published, throughput(OPT_30B, T4_HOST, shares, prompt, OUTPUT), _TOLERANCE)
        )
        prefill, decode = layer_seconds(OPT_30B, T4_HOST, shares, prompt, OUTPUT)
        upload = OPT_30B.layer_bytes * shares.weights.host / T4_HOST.to_gpu
        lines.append(
            f"Prompt {prompt:,}: prefill {OPT_30B.layers * prefill:.0f} s; a decode pass {OPT_30B.layers * decode:.1f} s, of "
            f"which {OPT_30B.layers * upload:.1f} s upload the weights and the rest is mostly attention on the CPU."
        )
    attention = OPT_30B.layers * 8.0 * OPT_30B.hidden**2
    lines.append(
        f"Not simulated: the engine keeps weights outside feed-forward blocks on the GPU, {attention / 1e9:.1f} GB here, more "
        "than a T4 has. The constants are FlexGen's, fitted by it on measurements of this host."
    )
    return Findings(tuple(rows), arithmetic=tuple(lines))


CASE = Case(
    id="flexgen-opt30b",
    kind="system",
    summary="OPT-30B on a T4 with 208 GB: two published FlexGen policies by the cost model that its repository fitted.",
    source="FlexGen (ICML 2023, arXiv:2303.06865) and FMInference/FlexLLMGen, 32 tokens generated",
    runner=_findings,
)
