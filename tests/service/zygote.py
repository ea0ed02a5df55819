"""A process that has imported torch once and forks the loaders of all services and engines of a test session.

`python zygote.py FD` is that process, `Zygote` its client. A loader that is started in this way is ready about 1.6
seconds earlier than one that is started by `service.engine.supervisor.launch_loader`. `Faults` make it fail as a test
needs it to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from service.engine.supervisor import LoaderStart

MAX_BYTES = 1 << 17


class Faults(msgspec.Struct):
    """What goes wrong in a loader and its workers; a path is that of a file whose presence says whether it does.

    hold:          by model name: a checkpoint is not loaded before the file is there
    crash:         by model name: loading a checkpoint kills the loader while the file is there
    fork:          forking fails while the file is there
    out_of_memory: the next computation finds no memory if the file is there, which is then deleted
    spawn:         the loader forks nothing, as on a GPU
    user:          the loader has the permissions of this user
    poison:        8-bit levels of an image, in hexadecimal digits: computing anything with it kills the worker
    """

    hold: dict[str, str] = msgspec.field(default_factory=dict)
    crash: dict[str, str] = msgspec.field(default_factory=dict)
    fork: str = ""
    out_of_memory: str = ""
    poison: str = ""
    spawn: bool = False
    user: int | None = None


class _Order(msgspec.Struct):
    start: LoaderStart
    faults: Faults


class ForkedLoader:
    """A loader process, as `subprocess.Popen` would give it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._descriptor: int | None = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended already
            self._descriptor = None
        self._lock = threading.Lock()

    def kill(self) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._descriptor is not None:
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end. The status is known to the zygote alone, and nobody asks for it."""
        if self._descriptor is not None:
            select.select([self._descriptor], [], [])
            with self._lock:
                os.close(self._descriptor)
                self._descriptor = None
        return 0


class Zygote:
    """The process, started when it is first needed; `launch_loader` takes the place of the supervisor's function."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.pids: list[int] = []
        """Loaders that were started, the latest last."""
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()

    def launch_loader(self, descriptor: int, start: LoaderStart) -> ForkedLoader:
        with self._lock:
            connection = self._connection or self._start()
            order = msgspec.json.encode(_Order(start, self.faults))
            assert len(order) < MAX_BYTES
            socket.send_fds(connection, [order], [descriptor])
            pid = int(connection.recv(64) or 0)
        assert pid, "the zygote has ended"
        self.pids.append(pid)
        return ForkedLoader(pid)

    def close(self) -> None:
        if self._connection is not None and self._process is not None:
            self._connection.close()
            self._process.wait()

    def _start(self) -> socket.socket:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        return self._connection


def main() -> None:
    """Fork a loader per message until the other end of the socket closes."""
    from service.engine import loader
    from service.logs import configure_logging

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that the kernel keeps no zombies
    configure_logging("info", threads=False)
    connection, zygote = socket.socket(fileno=int(sys.argv[1])), os.getpid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, MAX_BYTES, 1)
        if not message:
            return
        pid = os.fork()
        if not pid:
            _be_loader(loader, zygote, connection, msgspec.json.decode(message, type=_Order), descriptors[0])
        os.close(descriptors[0])
        connection.send(str(pid).encode())


def _be_loader(loader: Any, zygote: int, connection: socket.socket, order: _Order, descriptor: int) -> None:
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.close()
        if order.faults.user is not None:
            os.seteuid(order.faults.user)
        loader.die_with_parent(zygote)
        _install(loader, order.faults)
        loader.run(socket.socket(fileno=descriptor), order.start)
    finally:
        os._exit(0)


def _install(loader: Any, faults: Faults) -> None:
    from service.engine import worker

    load_runtime, compute, fork = loader.load_runtime, worker.compute, os.fork

    def load_with_faults(folder: Path, device: Any) -> Any:
        name = folder.parent.name
        while name in faults.hold and not Path(faults.hold[name]).exists():
            time.sleep(0.01)
        if name in faults.crash and Path(faults.crash[name]).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return load_runtime(folder, device)

    def fork_with_faults() -> int:
        if faults.fork and Path(faults.fork).exists():
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    def compute_with_faults(runtime: Any, payloads: Any) -> Any:
        if faults.poison and any(getattr(payload, "levels", b"").hex() == faults.poison for payload in payloads):
            os.kill(os.getpid(), signal.SIGKILL)
        if faults.out_of_memory:
            with contextlib.suppress(FileNotFoundError):
                Path(faults.out_of_memory).unlink()
                raise MemoryError
        return compute(runtime, payloads)

    loader.load_runtime, worker.compute = load_with_faults, compute_with_faults
    os.fork = fork_with_faults
    if faults.spawn:
        loader.can_fork = lambda _: False


if __name__ == "__main__":
    main()
