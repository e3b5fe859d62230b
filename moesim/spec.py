"""The base of everything that a file can describe: frozen, strict, documented by its own docstrings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Spec"]


class Spec(BaseModel):
    """A frozen description: unknown keys are refused and attribute docstrings become the reference.

    One tree of such classes serves the YAML, the JSON Schema, the reference page and the computation. Files are
    validated with the context `{"units": "required"}`, which refuses bare numbers; from Python, SI numbers are welcome.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())
