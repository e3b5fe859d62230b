"""Plug-ins that were written before policies had rooms find the pieces that they import."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize(("name", "room"), [("on_demand", "baselines"), ("dispatch", "kit"), ("lru", "caching")])
def test_a_module_has_its_earlier_address_too(name: str, room: str) -> None:
    module = importlib.import_module(f"moesim.policies.{name}")
    assert module is importlib.import_module(f"moesim.policies.{room}.{name}")
    assert module.__name__ == f"moesim.policies.{room}.{name}"


def test_a_module_that_never_was_is_missed_by_its_name() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'moesim\.policies\.no_such'"):
        importlib.import_module("moesim.policies.no_such")
