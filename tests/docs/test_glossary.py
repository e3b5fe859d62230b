"""The glossary: in order, each word once, and every word that screens and pages use without saying what it is."""

from __future__ import annotations

import re

from doc_pages import read

from moesim.results.metrics import LATENCY_WORDS, METRICS

PAGE = read("docs/glossary.md")
TERMS = re.findall(r"^(\S.*)\n  \S", PAGE, re.MULTILINE)


def test_words_are_in_order_and_each_has_a_sentence() -> None:
    assert [term.lower() for term in TERMS] == sorted(term.lower() for term in TERMS)
    assert len(set(TERMS)) == len(TERMS)
    assert all(text.rstrip().endswith(".") for text in re.findall(r"^  (\S.*)$", PAGE, re.MULTILINE))


def test_words_of_metrics_and_screens_are_explained() -> None:
    known = {term.lower() for term in TERMS}
    spoken = {"ttft", "tpot", "itl", "slo", "bottleneck", "critical path", "upload", "prefetch", "pareto front", "replication",
              "point", "lane", "layer visit", "basis", "spread", "case"}  # fmt: skip
    labels = {metric.label for metric in METRICS.values()} & {"goodput", "hit rate", "makespan", "bound"}
    assert len(labels) == 4
    assert spoken | labels <= known
    assert {name.removesuffix("_s") for name in LATENCY_WORDS} - {"e2e", "queue"} <= known
