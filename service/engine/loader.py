"""`python -m service.engine.loader FD`: loads the checkpoints and forks workers, which share their memory.

It has one thread, so that forking is safe, and ends with the front end. Messages come and go through the socket of
that number, one per packet.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch

from hardware import keep_freed_memory
from service.engine.jobs import Runtime, compute
from service.engine.protocol import (
    Combine,
    Draw,
    Encode,
    Exited,
    Fork,
    Forked,
    Kill,
    Layout,
    Loaded,
    LoaderReady,
    Message,
    Payload,
    Reconstruct,
    Refused,
    Score,
    decode,
    encode,
)
from service.engine.worker import work
from vampprior.card import CheckpointError
from vampprior.checkpoint import load_checkpoint

PR_SET_PDEATHSIG = 1
PACKET_BYTES = 1 << 16
UNIT_SAMPLES = 512


class Start(msgspec.Struct, frozen=True):
    """What a loader is told at its start, as JSON in its arguments.

    folders: checkpoints, in the order in which they are loaded
    parent:  process that it ends with
    """

    folders: list[str]
    device: str
    parent: int


def main() -> None:
    """Load, then fork workers until the front end closes the socket."""
    for number in (signal.SIGINT, signal.SIGTERM):  # which a terminal sends to all; the front end ends its processes
        signal.signal(number, signal.SIG_IGN)
    start = msgspec.json.decode(sys.argv[2], type=Start)
    die_with_parent(start.parent)
    torch.set_num_threads(1)
    keep_freed_memory()
    control = socket.socket(fileno=int(sys.argv[1]))
    runtimes = {}
    for folder in map(Path, start.folders):
        reference = f"{folder.parent.name}@{folder.name}"
        try:
            runtimes[reference] = runtime = load_runtime(folder, torch.device(start.device))
            _send(control, _describe(reference, runtime))
        except CheckpointError as error:
            _send(control, Refused(reference, str(error)))
        except Exception as error:
            _send(control, Refused(reference, f"failed to load: {error}"))
    _send(control, LoaderReady())
    gc.collect()
    gc.freeze()
    _trim()
    _serve(control, runtimes)


def load_runtime(folder: Path, device: torch.device) -> Runtime:
    """Load a checkpoint. Raises `CheckpointError`."""
    model, card = load_checkpoint(folder)
    if (card.name, card.version) != (folder.parent.name, folder.name):
        raise CheckpointError(f"{folder} holds the card of {card.name}@{card.version}")
    model = model.to(device)
    with torch.inference_mode():
        return Runtime(card, model, model.prior_mixture(), device)


def _describe(reference: str, runtime: Runtime) -> Loaded:
    """Warm the model up, and say what the front end needs to know of it."""
    gray = bytes(int(np.prod(runtime.image_shape)))
    layout = Layout("png", 1, 1)
    for payload in _warm_up(gray, layout):
        (part,) = compute(runtime, [payload])
        if isinstance(payload, Score):
            compute(runtime, [Combine((part,))])
    begin = time.perf_counter()
    compute(runtime, [Score(gray, 0, 0, UNIT_SAMPLES)])
    seconds = time.perf_counter() - begin
    weights = runtime.mixture.log_weights.exp().cpu().numpy().astype(np.float32)
    has_inputs = runtime.model.prior.pseudo_inputs is not None
    return Loaded(reference, weights.tobytes(), has_inputs, runtime.model.autoregressive, seconds)


def _warm_up(gray: bytes, layout: Layout) -> Iterator[Payload]:
    yield Draw(0, 1, 0, None, 1.0, False, layout)
    yield Reconstruct(gray, 0, 1, 0, True, layout)
    yield Encode(gray, 1, 5)
    yield Score(gray, 0, 0, 32)


def _serve(control: socket.socket, runtimes: dict[str, Runtime]) -> None:
    """Fork and kill workers as told, and tell of those that end, until the front end closes the socket."""
    workers: dict[int, int] = {}  # number by process
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # the byte in `woken` is what tells of it
    while True:
        readable, _, _ = select.select([control, woken], [], [])
        if woken in readable:
            woken.recv(PACKET_BYTES)
        if control in readable:
            packet, descriptors, _, _ = socket.recv_fds(control, PACKET_BYTES, 1)
            if not packet:
                return
            message = decode(packet)
            if isinstance(message, Fork):
                workers[_fork(control, message, descriptors[0], runtimes)] = message.number
                os.close(descriptors[0])
            elif isinstance(message, Kill):
                for pid in [pid for pid, number in workers.items() if number == message.number]:
                    os.kill(pid, signal.SIGKILL)
        _reap(control, workers)


def _reap(control: socket.socket, workers: dict[int, int]) -> None:
    """Tell of every worker that has ended."""
    while workers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        _send(control, Exited(workers.pop(pid), os.waitstatus_to_exitcode(status)))


def _fork(control: socket.socket, message: Fork, descriptor: int, runtimes: dict[str, Runtime]) -> int:
    """Fork a worker and return its process; the worker itself never returns."""
    loader = os.getpid()
    pid = os.fork()
    if pid:
        _send(control, Forked(message.number, pid))
        return pid
    status = 1
    try:
        die_with_parent(loader)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        os.nice(message.nice)
        work(socket.socket(fileno=descriptor), runtimes)
        status = 0
    finally:
        os._exit(status)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; on systems other than Linux, the socket tells it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _send(control: socket.socket, message: Message) -> None:
    control.sendall(encode(message))


def _trim() -> None:
    """Hand freed memory back before the fork, so that workers do not copy it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
