"""The dtype that a running platform computes in, as its list of models says."""

from __future__ import annotations

import httpx

from aloraserve.client.addresses import is_grpc
from aloraserve_services.models.hardware import Dtype
from aloraserve_services.training.served_answers import PlatformTarget

TIMEOUT_S = 10.0


def platform_dtype(target: PlatformTarget) -> Dtype | None:
    """Return what the engines of a platform compute in, None if that cannot be read.

    It cannot over gRPC, which has no list of models, nor of a platform that does not answer or does not say it.

    Args:
        target: the platform, and what it calls the adapter.
    """
    headers = {} if target.api_key is None else {"Authorization": f"Bearer {target.api_key}"}
    try:
        if is_grpc(target.url):
            return None
        answer = httpx.get(f"{target.url.rstrip('/')}/v1/models", headers=headers, timeout=TIMEOUT_S)
        said = answer.json()["data"][0]["dtype"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError):
        return None
    return said if said in ("float32", "bfloat16") else None
