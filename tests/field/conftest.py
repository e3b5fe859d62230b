"""Inputs from the field, which lie beside the checkout and are not part of it."""

from pathlib import Path

import pytest

FIELD = Path(__file__).resolve().parents[2].parent / "shared" / "field"


@pytest.fixture(scope="session")
def field() -> Path:
    """The folder of inputs from the field; skips where it is absent."""
    if not FIELD.is_dir():
        pytest.skip(f"no inputs from the field at {FIELD}")
    return FIELD
