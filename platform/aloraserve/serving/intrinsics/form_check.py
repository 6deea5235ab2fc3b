"""Whether engines can hold an answer to an intrinsic's form, found out before anybody asks for one."""

from __future__ import annotations

from msgspec import Raw

from aloraserve.adapters.intrinsics import IntrinsicSpec
from aloraserve.serving.intrinsics.question import structured_of
from aloraserve.serving.structures import compile_fault
from aloraserve.wire.fields import FieldError, WrongValueError
from aloraserve.wire.structured import structured_output


def form_fault(spec: IntrinsicSpec) -> str:
    """Return why no answer can be held to a spec's form, an empty string if it can be.

    What a request may ask for is what an adapter may: the same bounds, and the same compiler.
    """
    try:
        structured = structured_output(structured_of(spec), Raw())
    except FieldError as error:
        return error.message
    except WrongValueError as error:
        return str(error)
    return "" if structured is None else compile_fault(structured)
