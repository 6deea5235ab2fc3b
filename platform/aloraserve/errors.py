"""One hierarchy of the errors a caller can meet; ``wire.errors`` maps each to a response, once."""

from __future__ import annotations

from collections.abc import Mapping


class AloraserveError(Exception):
    """Base of every error that this project raises on purpose.

    ``param`` names the request field at fault, where there is one. ``retry_after_s`` is when the same request may
    succeed, None where that is not known or never; ``headers`` are sent with the answer.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = headers or {}


class InvalidRequestError(AloraserveError):
    """Raised when a request's content is wrong and would be wrong again: the client must change it."""


class BodyTooLargeError(InvalidRequestError):
    """Raised when a request's body is longer than is accepted."""


class BodyTimeoutError(InvalidRequestError):
    """Raised when a request's body does not arrive in time."""


class MediaTypeError(InvalidRequestError):
    """Raised when a request's body is not declared to be JSON."""


class UnknownModelError(AloraserveError):
    """Raised when ``model`` names neither the base model nor a served adapter."""


class RetiredAdapterError(UnknownModelError):
    """Raised when ``model`` names an adapter that takes no new calls any more, saying why."""


class UnknownAdapterError(AloraserveError):
    """Raised when the catalog has no such adapter, version or alias, or none that the caller may see."""


class ConflictError(AloraserveError):
    """Raised when a change does not fit what is there, saying what that is."""


class TenantConflictError(ConflictError):
    """Raised when a change of a tenant or its keys does not fit what is there, saying what that is."""


class TenantChangedError(TenantConflictError):
    """Raised when another call changed the same tenant first: the same change may fit when tried again."""


class UnknownTenantError(AloraserveError):
    """Raised when there is no such tenant."""


class UnknownPrefixError(AloraserveError):
    """Raised when there is no shared prefix of such a name."""


class UnknownKeyError(AloraserveError):
    """Raised when there is no key with such a public id."""


class AdapterConflictError(ConflictError):
    """Raised when a change does not fit what the catalog has, saying what is there."""


class AdapterChangedError(AdapterConflictError):
    """Raised when another call changed the same adapter first: the same change may fit when tried again."""


class AdapterRefusedError(InvalidRequestError):
    """Raised when an adapter that was to be registered fails its check; its registration has the report."""


class AuthenticationError(AloraserveError):
    """Raised when a request carries no key, or one that no tenant has."""


class NotPermittedError(AloraserveError):
    """Raised when a caller is known but may not do this: only an administrator may."""


class UnknownServiceError(AloraserveError):
    """Raised when the health of a gRPC service is asked for that is not served here."""


class UnknownReceiptError(AloraserveError):
    """Raised when a request's routing receipt was never written here, or is no longer kept."""


class RateLimitedError(AloraserveError):
    """Raised when a tenant is over a limit of its own: the same request may succeed after ``retry_after_s``."""


class LimitTooLowError(InvalidRequestError):
    """Raised when a request is larger than its tenant's limit per minute: it would be refused again and again."""


class OverloadedError(AloraserveError):
    """Raised when every replica's queue is full: the same request may succeed later."""


class DrainingError(AloraserveError):
    """Raised when a gateway is about to stop and takes no more calls: another one may."""


class ReplicaLostError(AloraserveError):
    """Raised when the replica of a request that had already streamed died."""


class IdempotencyConflictError(AloraserveError):
    """Raised when a request with the same idempotency key is being answered: its answer can be had later."""


class IdempotencyKeyReusedError(InvalidRequestError):
    """Raised when an idempotency key stands for another request already."""


class EngineEndingRequestError(AloraserveError):
    """Raised when a request is refused because engines ended while they answered it, and more of them would."""


class InvalidAdapterError(AloraserveError):
    """Raised when an adapter's files cannot be served, naming the file and what would be accepted."""


class DeadlineError(AloraserveError):
    """Raised when what was asked for is not there by the time that its request or the platform sets."""


class UnusableAnswerError(AloraserveError):
    """Raised when an adapter's answer is not in the form that its intrinsic has; says which, and not the answer."""


class AdapterNotLoadedError(AloraserveError):
    """Raised when an adapter is served and an engine cannot load it: no other replica could, and no retry helps."""


class AdapterSourceError(InvalidAdapterError):
    """Raised when an adapter cannot be fetched: its source is refused, not there, or not what it was said to be."""


class AdapterNotStoredError(AloraserveError):
    """Raised when an adapter cannot be written where the platform keeps it, for all that is right about it."""


class InvocationError(AloraserveError):
    """Raised when an adapter would not act where it should: its invocation's text is in a prompt, its tokens are not.

    The adapter, the base model's tokenizer and its chat template do not fit together; no other request will do.
    """


class SettingsError(AloraserveError):
    """Raised when a setting is missing or wrong, naming its key, its value and what would be accepted."""


class TrainingError(AloraserveError):
    """Raised when a training spec or its data cannot be used; has every problem, with its file and line."""


class DirectoryUnavailableError(AloraserveError):
    """Raised when the directory does not answer in time; callers fall back, it never reaches a client."""


class KeySpaceMismatchError(AloraserveError):
    """Raised when a replica's model, tokenizer, block size or plugin is not its fleet's, naming each difference."""


class StartError(AloraserveError):
    """Raised when the platform cannot start, with what to do about it."""


class PartLostError(AloraserveError):
    """Raised when a part of a running platform has ended for good, and nothing but a new start brings it back."""
