"""The API's own description, OpenAPI 3.1, made from the models that requests are read with and answers written with."""

from aloraserve.wire.openapi.document import openapi_document
from aloraserve.wire.openapi.operations import OPERATIONS, Operation

__all__ = ["OPERATIONS", "Operation", "openapi_document"]
