"""Messages between the front end and its processes: msgpack with a length before it, over Unix sockets."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path
from socket import socket
from typing import ClassVar, Literal, cast

import msgspec

__all__ = [
    "HEADER",
    "REFINEMENT_DRAWS",
    "UNIT_SAMPLES",
    "Batch",
    "Combine",
    "Computed",
    "Decide",
    "Decode",
    "DecodeLatents",
    "Draw",
    "Encode",
    "Exited",
    "Fork",
    "Forked",
    "Gallery",
    "Interpolate",
    "Kill",
    "Layout",
    "Loaded",
    "LoaderReady",
    "Loading",
    "Locate",
    "Measure",
    "Message",
    "MessageStream",
    "Payload",
    "Received",
    "Reconstruct",
    "Refine",
    "Refused",
    "Render",
    "Score",
    "ShowMap",
    "ShowQuantiles",
    "decode",
    "frame",
    "receive",
    "reference_of",
]

HEADER = struct.Struct(">I")
"""Length of the message that follows, in bytes."""
UNIT_SAMPLES = 512
"""Importance samples of a unit of heavy work; a batch of more rows counts as several units."""
REFINEMENT_DRAWS = 16
"""Draws of the latents in a step of a refinement, as in `vampprior.refinement`."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of everything that is sent."""


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """How images are rendered.

    format:  `png`, `json` or `npy`
    columns: images in a row of a contact sheet
    scale:   whole factor that enlarges a PNG
    """

    format: Literal["png", "json", "npy"]
    columns: int
    scale: int


# Work. Images travel as bytes: 8-bit gray levels or colours, or float32 values, of shape (N, C, H, W). Every payload
# has a `count` of rows that go through the networks, and a `key`: those of equal type and key are computed together.


class Draw(Message, frozen=True):
    """Images `start` to `start + count` of those that a seed draws from the prior; rendered if there is a layout."""

    start: int
    count: int
    seed: int
    component: int | None
    temperature: float
    draw_pixels: bool
    layout: Layout | None

    @property
    def key(self) -> bool:
        """Draws of pixels are computed apart."""
        return self.draw_pixels


class Reconstruct(Message, frozen=True):
    """Images encoded and decoded, at the posterior means or, with `draw`, by draws with the seed."""

    levels: bytes
    start: int
    count: int
    seed: int
    draw: bool
    layout: Layout | None

    @property
    def key(self) -> bool:
        """Draws of pixels are computed apart."""
        return self.draw


class Encode(Message, frozen=True):
    """Posterior of each image and the `top` components most responsible for it, as a JSON object in a line each."""

    levels: bytes
    count: int
    top: int
    key: ClassVar[None] = None


class Decode(Message, frozen=True):
    """Means of components of these numbers, decoded, as values."""

    components: tuple[int, ...]
    key: ClassVar[None] = None

    @property
    def count(self) -> int:
        """Images that are decoded."""
        return len(self.components)


class DecodeLatents(Message, frozen=True):
    """Latents decoded, as a body.

    latents: float32 values of the given layers, top first, shape (count, M) each
    seed:    draws the pixels of an autoregressive model
    """

    latents: tuple[bytes, ...]
    count: int
    seed: int
    layout: Layout
    key: ClassVar[None] = None


class Interpolate(Message, frozen=True):
    """Images along a path between two images, as a body.

    components: numbers of the components at the start and at the end; None for an uploaded image
    levels:     the uploaded images, in their order
    spherical:  whether the path in the top layer is an arc around the origin, instead of a line
    animation:  file format of an animation, instead of a layout
    duration:   time of a frame of it, in milliseconds
    """

    levels: bytes
    components: tuple[int | None, int | None]
    steps: int
    spherical: bool
    seed: int
    layout: Layout
    animation: Literal["webp", "apng"] | None
    duration: int
    key: ClassVar[None] = None

    @property
    def count(self) -> int:
        """Images that are decoded."""
        return self.steps


class ShowMap(Message, frozen=True):
    """The map of a calibration as JSON, or nothing if the calibration has none."""

    calibration: str
    count: ClassVar[int] = 0
    key: ClassVar[None] = None


class ShowQuantiles(Message, frozen=True):
    """Quantiles of the calibration images' scores and log-likelihoods, as JSON."""

    calibration: str
    count: ClassVar[int] = 0
    key: ClassVar[None] = None


class Gallery(Message, frozen=True):
    """Pseudo-inputs of these numbers, or the component means decoded.

    decoded: the decoded means, in parts; None for pseudo-inputs
    offset:  position of the first one in the gallery, for JSON
    stretch: True if each image of a PNG is brightened until its brightest pixel is white
    """

    components: tuple[int, ...]
    decoded: tuple[bytes, ...] | None
    offset: int
    stretch: bool
    layout: Layout
    key: ClassVar[None] = None

    @property
    def count(self) -> int:
        """Images that are rendered."""
        return len(self.components)


class Refine(Message, frozen=True):
    """A proposal fitted to one image in `steps` steps: shift and log-scale, float32."""

    levels: bytes
    seed: int
    steps: int

    @property
    def count(self) -> int:
        """Draws of the latents."""
        return self.steps * REFINEMENT_DRAWS

    @property
    def key(self) -> int:
        """Fits of equal length are sent together."""
        return self.steps


class Score(Message, frozen=True):
    """Log-weights of importance samples `start` to `start + count` of one image, with a noise stream per unit.

    proposal: what `Refine` gave, or nothing for the posterior
    """

    levels: bytes
    proposal: bytes
    seed: int
    start: int
    count: int

    @property
    def key(self) -> tuple[int, bool]:
        """Units of one size are computed together."""
        return self.count, bool(self.proposal)


class Measure(Message, frozen=True):
    """Statistics of images, and the prototypes that explain each best, for `Decide`."""

    levels: bytes
    images: int
    num_samples: int
    seed: int

    @property
    def count(self) -> int:
        """Draws of the latents."""
        return self.images * self.num_samples

    @property
    def key(self) -> tuple[int, int]:
        """Each is computed by itself."""
        return self.num_samples, self.seed


class Decide(Message, frozen=True):
    """Decisions over all images whose statistics `Measure` gave in parts, as a JSON object in a line each."""

    parts: tuple[bytes, ...]
    calibration: str
    false_alarm_rate: float | None
    fdr: float | None
    count: ClassVar[int] = 0
    key: ClassVar[None] = None


class Locate(Message, frozen=True):
    """Where images differ from their closest prototypes, as a body.

    view: `overlay`, the heat map in red over the image; `heat`, the map alone; `prototypes`, what these show there
    """

    levels: bytes
    count: int
    view: Literal["overlay", "heat", "prototypes"]
    layout: Layout

    @property
    def key(self) -> None:
        """Each is computed by itself."""
        return None


class Combine(Message, frozen=True):
    """The log-likelihood from the parts that `Score` gave, in their order, as a JSON object.

    precision: standard error, in nats, below which it has converged
    refined:   whether the proposal was fitted to the image
    """

    parts: tuple[bytes, ...]
    precision: float | None
    refined: bool
    count: ClassVar[int] = 1
    key: ClassVar[None] = None


class Render(Message, frozen=True):
    """Images as a body."""

    images: tuple[bytes, ...]
    seed: int | None
    layout: Layout
    key: ClassVar[None] = None

    @property
    def count(self) -> int:
        """Parts that are rendered."""
        return len(self.images)


Payload = (
    Draw
    | Reconstruct
    | Encode
    | Decode
    | DecodeLatents
    | Interpolate
    | Gallery
    | Refine
    | Measure
    | Decide
    | Locate
    | Score
    | Combine
    | Render
    | ShowMap
    | ShowQuantiles
)


class Batch(Message, frozen=True):
    """Work of one kind on one model, for a worker."""

    number: int
    model: str
    payloads: list[Payload]


class Computed(Message, frozen=True):
    """Answer to a batch: a result per payload, or why it failed.

    seconds:        time that the worker took
    render_seconds: the part of it in which images were made into bodies
    """

    number: int
    results: list[bytes]
    error: str
    seconds: float
    render_seconds: float = 0.0


# The loader's life.


class Loading(Message, frozen=True):
    """A checkpoint is being loaded from now on."""

    reference: str


class Loaded(Message, frozen=True):
    """A checkpoint has been loaded and warmed up.

    card:         as JSON
    weights:      component weights of the prior, float32
    has_pseudo_inputs: whether the prior has pseudo-inputs
    calibrations: number of images of each calibration, by name
    latent_dims:  units of each stochastic layer, by name, top first
    max_rows:     rows that go through the networks at once
    unit_seconds: time of a unit of heavy work
    """

    reference: str
    card: bytes
    weights: bytes
    has_pseudo_inputs: bool
    autoregressive: bool
    calibrations: dict[str, int]
    latent_dims: dict[str, int]
    max_rows: int
    unit_seconds: float


class Refused(Message, frozen=True):
    """A checkpoint that cannot be used, and why."""

    reference: str
    reason: str


class LoaderReady(Message, frozen=True):
    """Every checkpoint has been loaded or refused.

    forks: whether the loader forks workers; otherwise it becomes the only one
    """

    forks: bool


class Fork(Message, frozen=True):
    """Fork a worker, or become it, with the socket that comes along as its connection."""

    number: int
    nice: int


class Forked(Message, frozen=True):
    """A worker has been forked, or if `pid` is 0 could not be."""

    number: int
    pid: int


class Kill(Message, frozen=True):
    """Kill a worker."""

    number: int


class Exited(Message, frozen=True):
    """A worker has ended; a negative status is the number of a signal."""

    number: int
    status: int


Received = Batch | Computed | Loading | Loaded | Refused | LoaderReady | Fork | Forked | Kill | Exited

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Received] = msgspec.msgpack.Decoder(Received)

decode = _decoder.decode


def reference_of(folder: Path) -> str:
    """`name@version` of the folder of a checkpoint."""
    return f"{folder.parent.name}@{folder.name}"


def frame(message: Message) -> bytes:
    """A message with its length before it."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def receive(connection: socket) -> Received | None:
    """The next message of a blocking stream, or None at its end."""
    header = exactly(connection, HEADER.size)
    if header is None:
        return None
    (length,) = HEADER.unpack(header)
    body = exactly(connection, length)
    return None if body is None else decode(body)


def exactly(connection: socket, length: int) -> bytes | None:
    """The next `length` bytes of a blocking stream, or None if it ends before."""
    data = bytearray(length)
    view = memoryview(data)
    while view:
        try:
            count = connection.recv_into(view)
        except ConnectionError:
            return None
        if not count:
            return None
        view = view[count:]
    return bytes(data)


class MessageStream(asyncio.Protocol):
    """The front end's side of a stream of messages.

    on_message: called with each message
    on_end:     called once when the stream ends
    """

    def __init__(self, on_message: Callable[[Received], None], on_end: Callable[[], None]) -> None:
        self._on_message, self._on_end = on_message, on_end
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand on every message that is complete."""
        self._buffer += data
        start = 0
        while len(self._buffer) >= start + HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer, start)
            end = start + HEADER.size + length
            if len(self._buffer) < end:
                break
            with memoryview(self._buffer) as view:
                message = decode(view[start + HEADER.size : end])
            start = end
            self._on_message(message)
        if start:
            del self._buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell the owner."""
        self._on_end()

    def send(self, message: Message) -> None:
        """Send a message without waiting."""
        if self._transport is not None:
            self._transport.write(frame(message))

    def close(self) -> None:
        """End the stream at once; the owner is told."""
        if self._transport is not None:
            self._transport.abort()
