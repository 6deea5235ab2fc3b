"""Messages of the channel, as they lie on the wire: msgpack arrays that begin with a message's number.

A frame is four bytes of length, lowest first, and one array of messages: all that are ready leave together. A later
version may append fields; readers pass over those that they do not know and fill in those that are missing. A change
that an older reader would misread raises :data:`VERSION`; the first two fields of :class:`Challenge` and
:class:`Hello` never change.
"""

from __future__ import annotations

import msgspec

from aloraserve.adapters import AdapterRef
from aloraserve.routing.fair_share import TenantShare
from aloraserve.savings.base import CallSavings
from aloraserve.serving.engine_messages import TokenLogprobs
from aloraserve.wire.sampling import SamplingSettings

VERSION = 3
"""2: calls have structured outputs, which an older replica would pass over and answer with any text. 3: and biases,
allowed tokens and others of the sort; log-probabilities are arrays."""
MAX_FRAME_BYTES = 16 << 20
"""A prompt of a million token ids and its block keys take 6 MiB."""
MAX_GREETING_BYTES = 1 << 10
"""Until a gateway has proved who it is."""


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all messages."""


class Challenge(Message, frozen=True, tag=1):
    """A replica's first message.

    Args:
        version: that it speaks.
        nonce: to be proved with.
    """

    version: int
    nonce: bytes


class Hello(Message, frozen=True, tag=2):
    """A gateway's first message.

    Args:
        version: that it speaks.
        nonce: the gateway's own.
        proof: that it has the replica's secret.
    """

    version: int
    nonce: bytes
    proof: bytes


class Welcome(Message, frozen=True, tag=3):
    """The gateway may send calls.

    Args:
        proof: that the replica has its secret as well.
        capacity: calls that it takes in at once, from all gateways.
    """

    proof: bytes
    capacity: int


class Refused(Message, frozen=True, tag=4):
    """The gateway may not send calls, and why."""

    reason: str


class CallMessage(Message, frozen=True, tag=5):
    """A call; see :class:`~aloraserve.serving.engine_messages.EngineCall`.

    Args:
        number: of the call on this connection.
        request_id: see there.
        token_ids: 32-bit numbers, lowest byte first.
        keys: block keys, joined.
        sampling: see there.
        credits: chunks that the replica may send before it is given more.
        adapter: see there.
        cache_salt: see there.
        traceparent: see there.
        shows_tokens: see there.
        share: see there.
        public_blocks: see there.
        elsewhere_tokens: see there.
    """

    number: int
    request_id: str
    token_ids: bytes
    keys: bytes
    sampling: SamplingSettings
    credits: int
    adapter: AdapterRef | None = None
    cache_salt: str | None = None
    traceparent: str | None = None
    shows_tokens: bool = False
    share: TenantShare | None = None
    public_blocks: int = 0
    elsewhere_tokens: int = 0


class Credit(Message, frozen=True, tag=6):
    """The replica may send so many chunks of a call more."""

    number: int
    chunks: int


class Cancel(Message, frozen=True, tag=7):
    """Nobody waits for a call any more."""

    number: int


class Token(Message, frozen=True, tag=8):
    """A chunk of text and nothing else, as most are."""

    number: int
    index: int
    text: str
    tokens: int


class ChunkMessage(Message, frozen=True, tag=9):
    """A chunk; see :class:`~aloraserve.serving.engine_messages.EngineChunk`."""

    number: int
    index: int
    text: str
    tokens: int
    finish_reason: str | None = None
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    prefill_s: float = 0.0
    savings: CallSavings | None = None
    token_ids: tuple[int, ...] = ()
    stop_reason: int | str | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()


class Refusal(Message, frozen=True, tag=10):
    """See :class:`~aloraserve.serving.engine_messages.EngineRefusal`."""

    number: int
    message: str
    param: str | None = None
    is_adapter_fault: bool = False


class Unavailable(Message, frozen=True, tag=11):
    """See :class:`~aloraserve.serving.engine_messages.EngineUnavailable`."""

    number: int
    message: str


class End(Message, frozen=True, tag=12):
    """All replies to a call were sent; its place is free."""

    number: int


class Failed(Message, frozen=True, tag=13):
    """A call, or a question of another replica, ended with an error.

    Args:
        number: of the call or question.
        is_lost: the engine is dead: another replica may answer.
        cause: the error's name.
    """

    number: int
    is_lost: bool
    cause: str


class Full(Message, frozen=True, tag=14):
    """There is no place for a call; :class:`Room` follows once there is."""

    number: int


class Room(Message, frozen=True, tag=15):
    """A replica that was full takes calls again."""


class Draining(Message, frozen=True, tag=16):
    """The replica takes no further calls and will end; those that it has run on."""


class Hottest(Message, frozen=True, tag=19):
    """Another replica asks which prefixes this one's calls had most of lately."""

    number: int


class Prefill(Message, frozen=True, tag=20):
    """Another replica, which leaves, asks this one to compute prefixes.

    Args:
        number: of the question on this connection.
        prefixes: packed (:mod:`aloraserve.scaling.packed_prefixes`).
        budget_s: for all of them.
    """

    number: int
    prefixes: bytes
    budget_s: float


class Prefixes(Message, frozen=True, tag=21):
    """The answer to :class:`Hottest`, packed."""

    number: int
    prefixes: bytes


class Prefilled(Message, frozen=True, tag=22):
    """The answer to :class:`Prefill`: how many of the prefixes are there."""

    number: int
    prefixes: int


class Ping(Message, frozen=True, tag=17):
    """Asks for a :class:`Pong`; both ends do."""


class Pong(Message, frozen=True, tag=18):
    """The answer to a :class:`Ping`."""


ToReplica = Hello | CallMessage | Credit | Cancel | Hottest | Prefill | Ping | Pong
ToGateway = (
    Challenge
    | Welcome
    | Refused
    | Token
    | ChunkMessage
    | Refusal
    | Unavailable
    | End
    | Failed
    | Full
    | Room
    | Draining
    | Prefixes
    | Prefilled
    | Ping
    | Pong
)

encode = msgspec.msgpack.Encoder().encode
decode_to_replica = msgspec.msgpack.Decoder(list[ToReplica]).decode
decode_to_gateway = msgspec.msgpack.Decoder(list[ToGateway]).decode
