"""JSON schemas of the wire's models: what clients send is read by msgspec, what they get is written by pydantic.

msgspec's own generator fails on fields that are not read at once (``Raw``), and would list those that are not served.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatchmethod
from typing import Any

from msgspec import NODEFAULT, Raw, Struct, UnsetType
from msgspec import inspect as shapes
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from aloraserve.wire.fields import IGNORED, ONLY, OWN_FIELD

Schema = dict[str, Any]
REFERENCE = "#/components/schemas/"
_BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "min_length": "minLength",
    "max_length": "maxLength",
}


def answer_schemas(models: Iterable[type[BaseModel]]) -> dict[str, Schema]:
    """Return the schemas of answers and of their parts, by name."""
    wanted = [(model, "serialization") for model in models]
    _, found = models_json_schema(wanted, ref_template=f"{REFERENCE}{{model}}")  # type: ignore[arg-type]
    return dict(found.get("$defs", {}))


class RequestSchemas:
    """Collects the schemas of what clients send.

    Attributes:
        schemas: of bodies and their parts, by name.
    """

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}

    def add(self, kind: type[Struct]) -> Schema:
        """Return a reference to a body's schema, which is then among :attr:`schemas`."""
        return self._of(shapes.type_info(kind))

    @singledispatchmethod
    def _of(self, shape: shapes.Type) -> Schema:
        # Whatever JSON is: what is read later says what it takes.
        return {}

    @_of.register
    def _(self, shape: shapes.Metadata) -> Schema:
        return self._of(shape.type) | (shape.extra_json_schema or {})

    @_of.register
    def _(self, shape: shapes.StructType) -> Schema:
        name = shape.cls.__name__
        if name not in self.schemas:
            # A part may hold itself.
            self.schemas[name] = {}
            self.schemas[name] = self._struct(shape)
        return {"$ref": f"{REFERENCE}{name}"}

    @_of.register
    def _(self, shape: shapes.UnionType) -> Schema:
        return {"anyOf": [self._of(each) for each in shape.types]}

    @_of.register
    def _(self, shape: shapes.LiteralType) -> Schema:
        return {"enum": list(shape.values)}

    @_of.register
    def _(self, shape: shapes.EnumType) -> Schema:
        return {"enum": [each.value for each in shape.cls]}

    @_of.register
    def _(self, shape: shapes.ListType) -> Schema:
        return {"type": "array", "items": self._of(shape.item_type)} | _sizes(shape, "Items")

    @_of.register
    def _(self, shape: shapes.DictType) -> Schema:
        values = {"type": "object", "additionalProperties": self._of(shape.value_type)}
        return values | _sizes(shape, "Properties")

    @_of.register
    def _(self, shape: shapes.StrType) -> Schema:
        pattern = {} if shape.pattern is None else {"pattern": shape.pattern.replace(r"\Z", "$")}
        return {"type": "string"} | _bounds(shape) | pattern

    @_of.register
    def _(self, shape: shapes.IntType) -> Schema:
        return {"type": "integer"} | _bounds(shape)

    @_of.register
    def _(self, shape: shapes.FloatType) -> Schema:
        return {"type": "number"} | _bounds(shape)

    @_of.register
    def _(self, shape: shapes.BoolType) -> Schema:
        return {"type": "boolean"}

    @_of.register
    def _(self, shape: shapes.NoneType) -> Schema:
        return {"type": "null"}

    def _struct(self, shape: shapes.StructType) -> Schema:
        served = [field for field in shape.fields if _is_served(field)]
        properties = {field.encode_name: self._of(field.type) | _default(field) for field in served}
        required = [field.encode_name for field in served if field.required]
        schema: Schema = {"type": "object", "properties": properties}
        if description := (shape.cls.__doc__ or "").partition("\n\n")[0].strip():
            schema["description"] = description
        if required:
            schema["required"] = required
        if shape.forbid_unknown_fields:
            schema["additionalProperties"] = False
        return schema


def _is_served(field: shapes.Field) -> bool:
    extra = field.type.extra or {} if isinstance(field.type, shapes.Metadata) else {}
    return field.encode_name != OWN_FIELD and not extra.keys() & {ONLY, IGNORED}


def _default(field: shapes.Field) -> Schema:
    is_shown = field.default is not None and not isinstance(field.default, type(NODEFAULT) | Raw | UnsetType)
    return {"default": field.default} if is_shown else {}


def _bounds(shape: shapes.StrType | shapes.IntType | shapes.FloatType) -> Schema:
    return {name: value for key, name in _BOUNDS.items() if (value := getattr(shape, key, None)) is not None}


def _sizes(shape: shapes.ListType | shapes.DictType, what: str) -> Schema:
    sizes = {f"min{what}": shape.min_length, f"max{what}": shape.max_length}
    return {name: value for name, value in sizes.items() if value is not None}
