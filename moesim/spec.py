"""The base of everything that a file can describe: frozen, strict, documented by its own docstrings."""

from __future__ import annotations

import ast
import inspect
from contextvars import ContextVar
from functools import cache
from itertools import pairwise
from textwrap import dedent
from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler

__all__ = ["Spec", "bare_schema", "descriptions"]


class Spec(BaseModel):
    """A frozen description: unknown keys are refused and attribute docstrings become the reference.

    One tree of such classes serves the YAML, the JSON Schema, the reference page and the computation. Files are
    validated with the context `{"units": "required"}`, which refuses bare numbers; from Python, SI numbers are welcome.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Attribute docstrings as descriptions. A class that travels to another process takes this function's names along."""
        return _described(cls, core_schema, handler)


def _described(spec: type[BaseModel], core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
    """The schema with descriptions; they are read here, because no run needs them and reading takes long."""
    schema = handler(core_schema)
    if _bare.get():
        return schema
    properties = handler.resolve_ref_schema(schema).get("properties", {})
    for name, text in descriptions(spec).items():
        if name in properties:
            properties[name].setdefault("description", text)
    return schema


_bare: ContextVar[bool] = ContextVar("bare", default=False)


def bare_schema(spec: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a spec without descriptions."""
    token = _bare.set(True)
    try:
        return spec.model_json_schema()
    finally:
        _bare.reset(token)


@cache
def descriptions(spec: type[BaseModel]) -> dict[str, str]:
    """Field -> its docstring, for the fields that have one; the docstring goes with the annotation that is in force."""
    texts: dict[str, str] = {}
    for base in reversed(spec.__mro__):
        if issubclass(base, Spec) and base is not Spec:
            own = _docstrings(base)
            for name in inspect.get_annotations(base):
                texts.pop(name, None)
                if name in own:
                    texts[name] = own[name]
    return {name: text for name, text in texts.items() if name in spec.model_fields}


def _docstrings(spec: type) -> dict[str, str]:
    """Attribute -> the string that follows its annotation in the source; nothing where there is no source."""
    try:
        body = ast.parse(dedent(inspect.getsource(spec))).body[0]
    except (OSError, SyntaxError):
        return {}
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }
