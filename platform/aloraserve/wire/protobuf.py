"""Between the messages of ``aloraserve.v1`` and the JSON types of the HTTP API, by four conventions of the ``.proto``.

A field is the JSON field of the same name, present where it is set, except that

* ``NAME_json`` is ``NAME``, given as JSON text, and ``extra_json`` an object whose fields stand beside the message's;
* ``NAME_parts`` is another form of ``NAME``, as is each member of a oneof ``value`` of the message that has it;
* a message whose only field is ``items`` is that list or map;
* the fields of a ``Sampling`` stand where it does.

So both edges validate and answer by the same models, and errors name the same fields.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from aloraserve.errors import InvalidRequestError
from aloraserve.wire.body import compared

EXTRA = "extra_json"
_JSON, _PARTS, _ITEMS, _VALUE = "_json", "_parts", "items", "value"
_INLINE = frozenset({"aloraserve.v1.Sampling"})
_NOT_SENT = frozenset({"object"})
"""Fields of answers that say what a message's type says already."""

_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw = msgspec.json.Decoder(msgspec.Raw)
_encode = msgspec.json.Encoder().encode
Kind = TypeVar("Kind", bound=Message)
Descriptor: TypeAlias = Any
Field: TypeAlias = Any
"""Descriptors of messages and of fields: protobuf's C and Python implementations each have types of their own."""


class _Member(NamedTuple):
    """A field as JSON has it."""

    name: str
    field: Field
    is_json: bool
    is_inline: bool
    to_json: Callable[[Any], Any]


def json_of(message: Message) -> dict[str, Any]:
    """Return the fields of a message that are set, by their names in JSON; some may be :class:`msgspec.Raw`.

    Raises:
        InvalidRequestError: a field of JSON text is not, or is one that the message has as well.
    """
    content: dict[str, Any] = {}
    members = _members(message.DESCRIPTOR)
    for field, value in message.ListFields():
        member = members[field.name]
        if member.is_inline:
            content |= json_of(value)
        elif field.name == EXTRA:
            _add_extra(content, value)
        else:
            content[member.name] = member.to_json(value)
    return content


def message_of(kind: type[Kind], content: Mapping[str, Any]) -> Kind:
    """Return JSON types as a message; what is None is not set, what the message has no field for is its extra.

    Raises:
        ValueError: the message has no field for it, and no extra; or its value has another type.
    """
    message = kind()
    _fill(message, content)
    return message


def _fill(message: Message, content: Mapping[str, Any]) -> None:
    descriptor = message.DESCRIPTOR
    members, extra = _by_json_name(descriptor), {}
    for name, value in content.items():
        if value is None or name in _NOT_SENT:
            continue
        member = _member_for(members.get(name, ()), value)
        if member is None:
            extra[name] = value
        elif member.is_json:
            setattr(message, member.field.name, _encode(value).decode())
        else:
            _set(message, member.field, value)
    if extra:
        _set_extra(message, extra)


def _set_extra(message: Message, extra: dict[str, Any]) -> None:
    descriptor = message.DESCRIPTOR
    if inline := next((member.field for member in _members(descriptor).values() if member.is_inline), None):
        known = _by_json_name(inline.message_type)
        _fill(getattr(message, inline.name), {name: value for name, value in extra.items() if name in known})
        extra = {name: value for name, value in extra.items() if name not in known}
    if extra and EXTRA not in descriptor.fields_by_name:
        raise ValueError(f"{descriptor.full_name} has no field {next(iter(extra))[:80]!r}")
    if extra:
        setattr(message, EXTRA, _encode(extra).decode())


def _set(message: Message, field: Field, value: Any) -> None:
    """Set a field that JSON has as the same thing, or as a list or map of it."""
    target = getattr(message, field.name)
    if _is_map(field):
        target.update(value)
    elif field.is_repeated and field.message_type is None:
        target.extend(map(_number, value) if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE else value)
    elif field.is_repeated:
        for entry in value:
            _set_message(target.add(), entry)
    elif field.message_type is not None:
        target.SetInParent()
        _set_message(target, value)
    else:
        setattr(message, field.name, value)


def _set_message(message: Message, value: Any) -> None:
    descriptor = message.DESCRIPTOR
    if value is None:
        return  # an element of a list that JSON has as null: an empty message
    if _is_items(descriptor):
        _set(message, descriptor.fields_by_name[_ITEMS], value)
    elif (union := descriptor.oneofs_by_name.get(_VALUE)) is not None:
        member = next((field for field in union.fields if _takes(field, value)), None)
        if member is None:
            raise ValueError(f"{descriptor.full_name} does not take a {type(value).__name__}")
        _set(message, member, value)
    else:
        _fill(message, value)


def _member_for(members: tuple[_Member, ...], value: Any) -> _Member | None:
    """Return the form of a field that takes a value; the only one takes any, or its setting fails."""
    if len(members) == 1:
        return members[0]
    return next((member for member in members if _takes(member.field, value)), None)


def _takes(field: Field, value: Any) -> bool:
    if field.message_type is None:
        return isinstance(value, str)
    return isinstance(value, list | tuple) if _is_items(field.message_type) else isinstance(value, Mapping)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@functools.cache
def _members(descriptor: Descriptor) -> dict[str, _Member]:
    """Return a message's fields by their names in the ``.proto``."""
    return {field.name: _member(field) for field in descriptor.fields}


@functools.cache
def _by_json_name(descriptor: Descriptor) -> dict[str, tuple[_Member, ...]]:
    """Return the forms of each field by its name in JSON."""
    found: dict[str, tuple[_Member, ...]] = {}
    for member in _members(descriptor).values():
        if not member.is_inline and member.field.name != EXTRA:
            found[member.name] = (*found.get(member.name, ()), member)
    return found


def _member(field: Field) -> _Member:
    is_json = field.name.endswith(_JSON)
    is_inline = field.message_type is not None and field.message_type.full_name in _INLINE
    name = field.name.removesuffix(_JSON).removesuffix(_PARTS)
    return _Member(name, field, is_json, is_inline, functools.partial(_raw_of, name) if is_json else _reader(field))


def _reader(field: Field) -> Callable[[Any], Any]:
    """Return what makes JSON types of a field's value."""
    if _is_map(field):
        return dict
    if field.message_type is None:
        if not field.is_repeated:
            return _same
        return _list_of_numbers if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE else list
    one = _read_message(field.message_type)
    return (lambda values: [one(value) for value in values]) if field.is_repeated else one


def _read_message(descriptor: Descriptor) -> Callable[[Any], Any]:
    if _is_items(descriptor):
        field = descriptor.fields_by_name[_ITEMS]
        return lambda message: _reader(field)(getattr(message, _ITEMS))
    if _VALUE in descriptor.oneofs_by_name:
        return _read_union
    return json_of


def _read_union(message: Message) -> Any:
    chosen = message.WhichOneof(_VALUE)
    if chosen is None:
        return None
    return _reader(message.DESCRIPTOR.fields_by_name[chosen])(getattr(message, chosen))


def _list_of_numbers(values: Any) -> list[Any]:
    return [None if value != value else value for value in values]


def _same(value: Any) -> Any:
    return value


def _is_map(field: Field) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _is_items(descriptor: Descriptor) -> bool:
    return len(descriptor.fields) == 1 and descriptor.fields[0].name == _ITEMS


def _raw_of(name: str, text: str) -> msgspec.Raw:
    try:
        return _raw.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequestError(f"'{name}{_JSON}' is not JSON", param=name) from None


def _add_extra(content: dict[str, Any], text: str) -> None:
    try:
        extra = _raw_object.decode(text)
        compared(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise InvalidRequestError(f"'{EXTRA}' is not a JSON object", param=EXTRA) from None
    for name in extra:
        if name in content:
            raise InvalidRequestError(f"'{EXTRA}' has {name[:80]!r}, which is set already", param=EXTRA)
    content |= extra
