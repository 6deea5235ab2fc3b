"""Intrinsics and guards as requests name them."""

from __future__ import annotations

from typing import Annotated, TypeVar

from msgspec import Meta, field

from aloraserve.wire.fields import RequestPart, refusal, text_bytes

MAX_INTRINSICS = 32
MAX_GUARDS = 8
MAX_ITEM_FIELDS = 16
MAX_FIELD_BYTES = 64 * 1024

Name = Annotated[str, Meta(min_length=1, max_length=256)]


class IntrinsicItem(RequestPart, frozen=True, kw_only=True):
    """An intrinsic, with the fields of its instruction; a name alone is one without fields."""

    name: Name
    fields: Annotated[dict[str, str], Meta(max_length=MAX_ITEM_FIELDS)] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.fields.items():
            if text_bytes(value) > MAX_FIELD_BYTES:
                raise refusal("fields", f"has a '{name[:64]}' above {MAX_FIELD_BYTES} bytes")


class GuardItem(IntrinsicItem, frozen=True, kw_only=True):
    """An intrinsic that may refuse a chat; its own threshold counts where none is given."""

    threshold: Annotated[float, Meta(ge=0, le=1)] | None = None


IntrinsicItems = Annotated[list[Name | IntrinsicItem], Meta(max_length=MAX_INTRINSICS)]
GuardItems = Annotated[list[Name | GuardItem], Meta(max_length=MAX_GUARDS)]

Item = TypeVar("Item", bound=IntrinsicItem)


def items_of(given: list[str | Item] | None, kind: type[Item]) -> list[Item]:
    """Return items, a name alone made one; none for None."""
    return [kind(name=item) if isinstance(item, str) else item for item in given or ()]
