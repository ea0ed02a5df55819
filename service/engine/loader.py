"""`python -m service.engine.loader FD START`: loads the checkpoints and forks workers, which share their memory.

It has one thread, so that forking is safe, and ends with the front end. On a GPU, and on systems other than Linux,
forking is not safe; there it becomes the only worker. FD is its socket to the front end, START a `LoaderStart`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec
import torch

from hardware import available_cpus, keep_freed_memory, trim_memory
from service.engine.jobs.runtime import Runtime
from service.engine.protocol import (
    HEADER,
    UNIT_SAMPLES,
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
    Loading,
    Message,
    Payload,
    Reconstruct,
    Refused,
    Score,
    decode,
    exactly,
    frame,
    reference_of,
)
from service.engine.supervisor import LoaderStart
from service.engine.worker import compute, work
from service.logs import configure_logging
from vampprior.calibration import read_calibrations
from vampprior.card import CARD_FILE, CheckpointError
from vampprior.checkpoint import load_checkpoint

PR_SET_PDEATHSIG = 1
WARM_UP_SAMPLES = 32

logger = logging.getLogger(__name__)


def main() -> None:
    """Load, then fork workers until the front end closes the socket."""
    for number in (signal.SIGINT, signal.SIGTERM):  # which a terminal sends to all; the front end ends its processes
        signal.signal(number, signal.SIG_IGN)
    start = msgspec.json.decode(sys.argv[2], type=LoaderStart)
    die_with_parent(start.parent)
    configure_logging(os.environ.get("VAMP_LOG_LEVEL", "info"), threads=False)
    run(socket.socket(fileno=int(sys.argv[1])), start)


def run(control: socket.socket, start: LoaderStart) -> None:
    """Load, tell what was loaded, and fork workers until the front end closes the socket."""
    keep_freed_memory()
    try:
        device = find_device(start.device)
    except ValueError as error:
        for folder in map(Path, start.folders):
            _send(control, Refused(reference_of(folder), str(error)))
        device = torch.device("cpu")
        start = LoaderStart([], start.device, start.parent)
    forks = can_fork(device)
    torch.set_num_threads(1 if forks or device.type != "cpu" else available_cpus())
    runtimes = {}
    for folder in map(Path, start.folders):
        reference = reference_of(folder)
        _send(control, Loading(reference))
        try:
            runtimes[reference] = load_runtime(folder, device)
            _send(control, _describe(reference, runtimes[reference]))
        except CheckpointError as error:
            _send(control, Refused(reference, str(error)))
        except Exception as error:
            logger.exception("model %s failed to load", reference)
            _send(control, Refused(reference, f"failed to load: {error}"))
    _send(control, LoaderReady(forks))
    gc.collect()
    gc.freeze()
    trim_memory()  # before the fork, or each worker would copy what was freed
    if forks:
        _fork_workers(control, runtimes)
    else:
        _become_worker(control, runtimes)


def can_fork(device: torch.device) -> bool:
    """Whether a process with models on this device can be forked: neither after CUDA has started, nor on macOS."""
    return device.type == "cpu" and sys.platform == "linux"


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` takes a GPU if there is one. Raises `ValueError` for a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(
            f"VAMP_DEVICE is {name}, but PyTorch finds {count or 'no'} GPU{'' if count == 1 else 's'} here"
        )
    return device


def load_runtime(folder: Path, device: torch.device) -> Runtime:
    """Load a checkpoint. Raises `CheckpointError`."""
    model, card = load_checkpoint(folder)
    if (card.name, card.version) != (folder.parent.name, folder.name):
        raise CheckpointError(f"{folder / CARD_FILE} is the card of {card.name}@{card.version}")
    model = model.to(device)
    with torch.no_grad():  # inference tensors could not be used where gradients are computed, by refinements
        mixture = model.prior_mixture()
    return Runtime(card, model, mixture, device, read_calibrations(folder, card))


def _describe(reference: str, runtime: Runtime) -> Loaded:
    """Warm the model up, and say what the front end needs to know of it."""
    channels, height, width = runtime.image_shape
    levels, layout = bytes(channels * height * width), Layout("png", 1, 1)
    payloads: list[Payload] = [
        Draw(0, 1, 0, None, 1.0, False, layout),
        Reconstruct(levels, 0, 1, 0, True, layout),
        Encode(levels, 1, 5),
        Score(levels, b"", 0, 0, WARM_UP_SAMPLES),
    ]
    parts = [compute(runtime, [payload]) for payload in payloads][-1]
    compute(runtime, [Combine(tuple(parts), None, False)])
    seconds = max(_seconds(runtime, payloads[0]), _seconds(runtime, payloads[-1]) * UNIT_SAMPLES / WARM_UP_SAMPLES)
    return Loaded(
        reference,
        json.dumps(runtime.card.to_dict()).encode(),
        runtime.weights.tobytes(),
        runtime.model.prior.pseudo_inputs is not None,
        runtime.model.autoregressive,
        {name: len(calibration) for name, calibration in runtime.calibrations.items()},
        dict(runtime.model.latent_dims),
        runtime.max_rows,
        seconds,
    )


def _seconds(runtime: Runtime, payload: Payload) -> float:
    """Time that a payload takes."""
    begin = time.perf_counter()
    compute(runtime, [payload])
    return time.perf_counter() - begin


def _fork_workers(control: socket.socket, runtimes: dict[str, Runtime]) -> None:
    """Fork and kill workers as told, and tell of those that end, until the front end closes the socket."""
    workers: dict[int, int] = {}  # number by process
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # the byte in `woken` is what tells of it
    while True:
        readable, _, _ = select.select([control, woken], [], [])
        if woken in readable:
            woken.recv(4096)
        if control in readable:
            received = _receive(control)
            if received is None:
                return
            message, descriptors = received
            if isinstance(message, Fork):
                process = _fork(control, message, descriptors[0], runtimes)
                if process:
                    workers[process] = message.number
            elif isinstance(message, Kill):
                for process in [process for process, number in workers.items() if number == message.number]:
                    os.kill(process, signal.SIGKILL)
            for descriptor in descriptors:
                os.close(descriptor)
        _reap(control, workers)


def _become_worker(control: socket.socket, runtimes: dict[str, Runtime]) -> None:
    """Be the worker that the front end calls for."""
    received = _receive(control)
    if received is None:
        return
    message, (descriptor,) = received
    if isinstance(message, Fork):
        _send(control, Forked(message.number, os.getpid()))
        work(socket.socket(fileno=descriptor), runtimes)


def _receive(control: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message of the front end and the file descriptors that came along, or None at the end."""
    header, descriptors, _, _ = socket.recv_fds(control, HEADER.size, 1)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
    body = exactly(control, length)
    return None if body is None else (decode(body), descriptors)


def _fork(control: socket.socket, message: Fork, descriptor: int, runtimes: dict[str, Runtime]) -> int:
    """Fork a worker and return its process, or 0 if that failed; the worker itself never returns."""
    loader = os.getpid()
    try:
        process = os.fork()
    except OSError as error:
        logger.error("no worker can be forked: %s", error)
        process = -1
    if process:
        _send(control, Forked(message.number, max(process, 0)))
        return max(process, 0)
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


def _reap(control: socket.socket, workers: dict[int, int]) -> None:
    """Tell of every worker that has ended."""
    while workers:
        process, status = os.waitpid(-1, os.WNOHANG)
        if not process:
            return
        _send(control, Exited(workers.pop(process), os.waitstatus_to_exitcode(status)))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; on systems other than Linux, the socket tells it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _send(control: socket.socket, message: Message) -> None:
    try:
        control.sendall(frame(message))
    except ConnectionError:  # the front end has closed its end
        os._exit(0)


if __name__ == "__main__":
    main()
