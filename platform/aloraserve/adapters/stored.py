"""A version's files as they lie where engines load them from."""

from __future__ import annotations

from aloraserve.adapters.base import AdapterVersion
from aloraserve.adapters.peft_files import read_files
from aloraserve.errors import InvalidAdapterError


def check_stored(version: AdapterVersion) -> int:
    """Return how many bytes a version's files have, once they are found to be those that were checked.

    A disk fails, and somebody tidies up: an engine is to meet neither. Reading them also brings them into the page
    cache, so that the engine does not wait for the disk.

    Raises:
        InvalidAdapterError: a file is missing, or not what was checked. Its cause is an OSError if another time may do
            better.
    """
    files = read_files(version.path)
    if files.digest != version.digest:
        raise InvalidAdapterError("its stored files are damaged: they are not those that were checked")
    return files.size_bytes
