"""Owns the comparison with what others have published: cases as data with a runner, verdicts, their report.

Knows scenarios and results; the simulator knows nothing of it.
"""

from __future__ import annotations

from moesim.validation.case import Case, CaseResult, Explanation, Findings, Row
from moesim.validation.registry import entries
from moesim.validation.report import exit_status, to_json, to_text
from moesim.validation.reproduce import reproduce

__all__ = ["Case", "CaseResult", "Explanation", "Findings", "Row", "entries", "exit_status", "reproduce", "to_json", "to_text"]
