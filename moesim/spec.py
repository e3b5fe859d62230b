"""The base of everything that a file can describe: frozen, strict, documented by its own docstrings."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler

__all__ = ["GIVEN", "Same", "Spec", "Unread", "bare_schema", "descriptions"]

GIVEN = object()
"""In `Unread`: any value but None."""


class Unread(NamedTuple):
    """Fields of a spec that nothing reads `when` other fields have these values, or `unless` they have them."""

    fields: tuple[str, ...]
    when: Mapping[str, Any] = {}
    """Field -> the value with which `fields` are not read."""
    unless: Mapping[str, Any] = {}
    """Field -> the only value, or a tuple of them, with which `fields` are read. All of `when` and `unless` must hold."""

    def switches(self) -> tuple[str, ...]:
        """The fields that decide."""
        return (*self.when, *self.unless)

    def holds(self, spec: BaseModel) -> bool:
        """Whether `spec` does not read the fields."""
        unlike = (getattr(spec, name) not in _several(values) for name, values in self.unless.items())
        return all(_is(getattr(spec, name), value) for name, value in self.when.items()) and all(unlike)

    def why(self) -> str:
        """`prefetch is 0`, `eviction is not hotness`."""
        reasons = [f"{name} is {'given' if value is GIVEN else _plain(value)}" for name, value in self.when.items()]
        reasons += [f"{name} is not {' or '.join(map(_plain, _several(values)))}" for name, values in self.unless.items()]
        return " and ".join(reasons)


def _several(values: Any) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) else (values,)


def _is(value: Any, target: Any) -> bool:
    return value is not None if target is GIVEN else bool(value == target)


def _plain(value: Any) -> str:
    if value is None:
        return "not given"
    return str(value).lower() if isinstance(value, bool) else str(value)


class Same:
    """A specification as a key: the object itself, whose values would take longer to compare than what is found by it."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def __hash__(self) -> int:
        return id(self.spec)

    def __eq__(self, key: object) -> bool:
        return isinstance(key, Same) and self.spec is key.spec


class Spec(BaseModel):
    """A frozen description: unknown keys are refused and attribute docstrings become the reference.

    One tree of such classes serves the YAML, the JSON Schema, the reference page and the computation. Files are
    validated with the context `{"units": "required"}`, which refuses bare numbers; from Python, SI numbers are welcome.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), defer_build=True)

    unread: ClassVar[tuple[Unread, ...]] = ()
    """Fields that are not read where others have certain values: a file that sets both is refused."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's. What was found from the fields and kept (`cached_property`) stays behind: a copy finds its own."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    def __eq__(self, spec: object) -> bool:
        """Whether both are of one type with equal fields, whatever was found from them and kept."""
        if not isinstance(spec, Spec):
            return NotImplemented
        fields = type(self).model_fields
        return type(self) is type(spec) and all(getattr(self, name) == getattr(spec, name) for name in fields)

    def unused(self) -> dict[str, Unread]:
        """Field that nothing reads, the others being as they are -> the rule that says so."""
        return {name: rule for rule in type(self).unread if rule.holds(self) for name in rule.fields}

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
        source = inspect.getsource(sys.modules[spec.__module__])
    except (KeyError, OSError, TypeError):  # a module that nothing can import, one without lines, one without a file
        return {}
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(_bodies(source).get(spec.__qualname__, ()))
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


@cache
def _bodies(source: str) -> dict[str, list[ast.stmt]]:
    """Qualified name -> statements of each class of a module, which is parsed once for all of its specs."""
    bodies: dict[str, list[ast.stmt]] = {}

    def enter(scope: ast.AST, outer: str) -> None:
        for node in ast.iter_child_nodes(scope):
            inner = outer
            if isinstance(node, ast.ClassDef):
                bodies[f"{outer}{node.name}"] = node.body
                inner = f"{outer}{node.name}."
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = f"{outer}{node.name}.<locals>."
            if not isinstance(node, ast.expr):  # no class is defined in one
                enter(node, inner)

    try:
        enter(ast.parse(source), "")
    except SyntaxError:  # changed since it was imported
        return {}
    return bodies
