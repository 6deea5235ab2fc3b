"""What salts a caller's block keys and KV cache: of two callers' salts none is the other's."""

from __future__ import annotations


def cache_salt_of(tenant: str | None, client_salt: str | None = None) -> str | None:
    """Return the salt of a tenant's blocks, None for blocks that belong to nobody.

    Each part stands behind its length, so that no two pairs have the same salt, whatever a client sends.

    Args:
        tenant: its name, None without one.
        client_salt: the request's own ``cache_salt``, None without one.
    """
    parts = (("tenant", tenant), ("client", client_salt))
    return "".join(f"{kind}:{len(part)}:{part}" for kind, part in parts if part is not None) or None
