"""From an adapter's files to its intrinsic."""

from __future__ import annotations

from aloraserve.adapters.intrinsics.granite import IO_YAML_FILE, read_io_yaml
from aloraserve.adapters.intrinsics.own_spec import WHERE, read_own_spec
from aloraserve.adapters.intrinsics.spec import IntrinsicSpec
from aloraserve.errors import InvalidAdapterError


def read_intrinsic(io_yaml: bytes | None, own: object = None) -> IntrinsicSpec | None:
    """Return what an adapter's files make of it, None for an adapter that is not an intrinsic.

    Args:
        io_yaml: content of ``io.yaml``, None without.
        own: value of ``intrinsic`` in ``aloraserve.json``, None without.

    Raises:
        InvalidAdapterError: there are both, or one is wrong; names the value and what is accepted.
    """
    if io_yaml is not None and own is not None:
        raise InvalidAdapterError(f"{IO_YAML_FILE} and {WHERE} both describe the intrinsic; one of them is accepted")
    if io_yaml is not None:
        return read_io_yaml(io_yaml)
    return None if own is None else read_own_spec(own)
