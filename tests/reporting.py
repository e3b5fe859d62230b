"""One test for many items of a kind: it checks them all and fails once, with a line for each item that does not hold."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pytest


def for_all(*lists: Iterable[Any] | Callable[[], Iterable[Any]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a check of an item a test of all items, of every combination where there are several lists.

    A list that takes long to make may come as a function that makes it, which is called when the test runs.

    The check takes an item of each list by position and fixtures by name. Items for which it calls `pytest.skip` are left
    out; where nothing else is left, the test is skipped. Nothing to check is a failure.
    """

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(check)
        def test(**fixtures: Any) -> None:
            combinations = list(product(*(items() if callable(items) else items for items in lists)))
            failures, skipped = _outcomes(check, combinations, fixtures)
            if failures:
                lines = "\n".join(f"{_name(items)}: {error or type(error).__name__}" for items, error in failures)
                raise AssertionError(f"{len(failures)} of {len(combinations)} fail\n{lines}") from failures[0][1]
            assert combinations, "there is nothing to check"
            if len(skipped) == len(combinations):
                pytest.skip(skipped[0])

        signature = inspect.signature(check)
        fixtures = list(signature.parameters.values())[len(lists) :]
        test.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
        return test

    return decorate


def _outcomes(
    check: Callable[..., None], combinations: list[tuple[Any, ...]], fixtures: dict[str, Any]
) -> tuple[list[tuple[tuple[Any, ...], Exception]], list[str]]:
    """What fails and with which error, and the reasons of what is left out."""
    failures: list[tuple[tuple[Any, ...], Exception]] = []
    skipped: list[str] = []
    for items in combinations:
        try:
            check(*items, **fixtures)
        except pytest.skip.Exception as reason:
            skipped.append(str(reason))
        except Exception as error:
            failures.append((items, error))
    return failures, skipped


def _name(items: tuple[Any, ...]) -> str:
    return ", ".join(item.stem if isinstance(item, Path) else str(getattr(item, "name", item)) for item in items)
