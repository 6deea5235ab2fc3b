"""What a fleet's processes share in Redis, from the settings alone: without a model, as Serve's controller has none."""

from __future__ import annotations

from collections.abc import Callable

from aloraserve.directory.redis import RedisDirectory
from aloraserve.routing.cells import cell_namespace
from aloraserve.scaling.redis import RedisBoard
from aloraserve.settings import Settings
from aloraserve.telemetry.redis_endpoints import RedisEndpoints


def open_directory(
    settings: Settings, cell: int, on_unreadable: Callable[[], None] = lambda: None, *, application: str = ""
) -> RedisDirectory:
    """Return a client of a cell's directory; gateways and replicas have to look in the same place.

    Args:
        settings: of the fleet.
        cell: which.
        application: that those who join belong to; empty: they belong to none.
        on_unreadable: called for each record in it that cannot be read.
    """
    urls = settings.cell_redis_addresses
    url = urls[cell] if urls else settings.redis_address
    namespace = cell_namespace(settings.namespace, cell, settings.cells)
    return RedisDirectory.from_url(url, namespace=namespace, application=application, on_unreadable=on_unreadable)


def open_board(settings: Settings, application: str) -> RedisBoard:
    """Return a client of the fleet's scaling board, which lies beside the directory.

    Args:
        settings: of the fleet.
        application: see :func:`~aloraserve_services.node.fleet_application`.
    """
    return RedisBoard.from_url(settings.redis_address, namespace=settings.namespace, application=application)


def open_endpoints(settings: Settings) -> RedisEndpoints:
    """Return a client of the fleet's list of metrics endpoints, which lies beside the directory."""
    return RedisEndpoints.from_url(settings.redis_address, namespace=settings.namespace)
