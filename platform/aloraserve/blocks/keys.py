"""Chained block keys: equal keys on two sides mean equal KV content (invariant 2 of the design).

A key is a 128-bit BLAKE2b digest of the previous block's key, the block's token ids and, from the activation
point on, the adapter. The chain starts at a root that names the fleet (model, tokenizer, block size) and the
tenant's cache salt, so tenants never share and neither do fleets.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

BlockKey = bytes
KEY_BYTES = 16
VERSION_DIGITS = 32
SCHEMA = 2
"""Version of what lies in a directory; to be raised with every change that older releases would misread."""


@dataclass(frozen=True, slots=True)
class AdapterEffect:
    """Effect of an adapter on a prompt: which adapter, and from which token on.

    Args:
        name: the adapter's served name.
        digest: hex digest of its content, so that a changed adapter under the same name shares nothing.
        activation: index of the first token that it changes; a plain LoRA's is 0.
    """

    name: str
    digest: str
    activation: int

    @property
    def version(self) -> str:
        """The adapter's version, as engines name it."""
        return version_name(self.name, self.digest)

    @property
    def salt(self) -> bytes:
        """Value that every block key from the activation point on is mixed with."""
        return _salt(self.version)


def version_name(name: str, digest: str) -> str:
    """Return the one name of an adapter version: ``name@digest``, with 128 bits of the digest.

    It stands in engines' KV events, so that blocks of two versions of one adapter are never taken for each other.
    """
    return f"{name}@{digest[:VERSION_DIGITS]}"


def version_salt(version: str) -> bytes | None:
    """Return the bytes that stand for an adapter version in a block key, None if that is not a :func:`version_name`."""
    return _salt(version) if "@" in version else None


def _salt(version: str) -> bytes:
    return b"\0adapter\0" + version.encode()


@dataclass(frozen=True)
class KeySpace:
    """The fleet that a key belongs to; replicas that differ in any part of it cannot share a directory.

    Args:
        model: the served model's name or content digest.
        tokenizer: digest of the tokenizer.
        block_tokens: tokens per block.
        plugin: version of what decides which blocks an adapter changes.
        schema: version of what lies in the directory. Keys do not depend on it.
    """

    model: str
    tokenizer: str
    block_tokens: int
    plugin: str = ""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.block_tokens < 1:
            raise ValueError(f"block_tokens is {self.block_tokens}; at least 1 is needed")

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that name this key space in the directory."""
        parts = "\0".join((self.model, self.tokenizer, str(self.block_tokens), self.plugin))
        return hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()

    def root(self, cache_salt: str | None) -> BlockKey:
        """Return the key that a tenant's chains start from; None is the untenanted salt."""
        salt = b"-" if cache_salt is None else b"+" + cache_salt.encode()
        return hashlib.blake2b(self.fingerprint.encode() + salt, digest_size=KEY_BYTES).digest()

    def salted(self, parent: BlockKey, cache_salt: str | None) -> BlockKey:
        """Return what a tenant's chain goes on from after public blocks, the last of which has the key ``parent``."""
        if cache_salt is None:
            return parent
        return hashlib.blake2b(parent + b"\0salt\0" + cache_salt.encode(), digest_size=KEY_BYTES).digest()

    def origin(self, cache_salt: str | None, public_blocks: int, before: Sequence[BlockKey]) -> BlockKey:
        """Return what the chain of the block behind ``before`` goes on from.

        Args:
            cache_salt: the tenant's salt.
            public_blocks: how many of the prompt's first blocks are public: their keys have no salt.
            before: the keys of all blocks before.
        """
        if public_blocks == 0:
            return before[-1] if before else self.root(cache_salt)
        parent = before[-1] if before else self.root(None)
        return self.salted(parent, cache_salt) if len(before) == public_blocks else parent

    def extend(
        self, parent: BlockKey, token_ids: Sequence[int], salt: bytes = b"", base_tokens: int = 0
    ) -> list[BlockKey]:
        """Return the keys of the whole blocks in ``token_ids``, chained onto ``parent``.

        Args:
            parent: the previous block's key, or :meth:`root`.
            token_ids: tokens after that block; a trailing part of a block gets no key.
            salt: the adapter's salt (:attr:`AdapterEffect.salt`), empty for base blocks.
            base_tokens: how many of the first block's tokens are still the base model's. The same tokens may have
                another activation point in that block, where a later token completes another last invocation.
        """
        width = self.block_tokens * 4
        data = array("I", token_ids).tobytes()
        keys: list[BlockKey] = []
        ending = salt + b"\0from\0%d" % base_tokens if base_tokens else salt
        for start in range(0, len(data) - width + 1, width):
            parent = hashlib.blake2b(parent + data[start : start + width] + ending, digest_size=KEY_BYTES).digest()
            ending = salt
            keys.append(parent)
        return keys

    def keys(
        self,
        token_ids: Sequence[int],
        *,
        cache_salt: str | None = None,
        adapter: AdapterEffect | None = None,
        known: Sequence[BlockKey] = (),
        public_blocks: int = 0,
    ) -> list[BlockKey]:
        """Return the keys of a prompt's whole blocks, in order.

        Blocks that end at or before the adapter's activation point are the base model's own; the block that
        contains it and all later ones are the adapter's.

        Args:
            token_ids: the prompt.
            cache_salt: the tenant's salt.
            adapter: the adapter that the call uses, if any.
            known: the keys that the prompt's first blocks have without an adapter.
            public_blocks: how many of the first blocks are public: the salt begins behind them. At most those before
                the activation point.
        """
        width = self.block_tokens
        if public_blocks and len(known) < public_blocks:
            known = self.extend(self.root(None), token_ids[: public_blocks * width])
        whole, base_tokens = divmod(max(adapter.activation, 0), width) if adapter else (len(token_ids) // width, 0)
        split = min(whole * width, len(token_ids))
        keys = list(known[: split // width])
        origin = self.origin(cache_salt, public_blocks, keys)
        keys += self.extend(origin, token_ids[len(keys) * width : split])
        if adapter is not None:
            origin = self.origin(cache_salt, public_blocks, keys)
            keys += self.extend(origin, token_ids[split:], adapter.salt, base_tokens)
        return keys
