"""Servers in processes of their own: started, waited for, stopped, one at a time."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.alternatives.model import THREADS
from benchmarks.machine import ROOT, Options
from benchmarks.processes import memory_mb

__all__ = ["Running", "Server", "ServerError", "redis", "running"]

START_SECONDS = 120.0
STOP_SECONDS = 20.0


class ServerError(RuntimeError):
    """A server did not start, or ended before its time."""


@dataclass(frozen=True)
class Server:
    """A contestant.

    command:      arguments of Python; `{port}` stands for the port to listen on, `{threads}` for the number of threads
    ready:        path that answers 200 once it serves
    environment:  variables for it alone, with the same placeholders
    folder:       where it is started
    memory_limit: bytes of private memory that each of its processes may map; None sets no limit
    """

    name: str
    command: tuple[str, ...]
    ready: str
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = ROOT
    memory_limit: int | None = None


@dataclass(frozen=True)
class Running:
    """A server that answers.

    start_seconds: from its start until it was ready
    """

    url: str
    process: subprocess.Popen[bytes]
    start_seconds: float

    def memory_mb(self) -> float:
        """Memory of all its processes, in 10^6 bytes."""
        return memory_mb(self.process.pid)


@contextlib.contextmanager
def running(server: Server, options: Options) -> Iterator[Running]:
    """Start the server, wait until it is ready, and stop it and all it started in the end.

    Raises `ServerError` with the end of its output if it does not become ready.
    """
    port = _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VAMP_")}
    environment |= {name: str(options.threads) for name in ("OMP_NUM_THREADS", THREADS)}

    def fill(text: str) -> str:
        return text.replace("{port}", str(port)).replace("{threads}", str(options.threads))

    environment |= {name: fill(value) for name, value in server.environment.items()}
    with tempfile.TemporaryFile() as output:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *map(fill, server.command)],
            cwd=server.folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        if server.memory_limit is not None:
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (server.memory_limit, server.memory_limit))
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_until_ready(url + server.ready, process, begin)
            yield Running(url, process, time.perf_counter() - begin)
        except ServerError as error:
            output.seek(0)
            raise ServerError(f"{server.name}: {error}\n{output.read()[-2000:].decode(errors='replace')}") from None
        finally:
            _stop(process)


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """A Redis of its own that keeps nothing on disk; its address."""
    executable = shutil.which("redis-server")
    if executable is None:
        raise ServerError("redis-server is not on the path; install it, on Debian with: apt-get install redis-server")
    port = _free_port()
    command = [executable, "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_until_open(port, process)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        _stop(process)


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise ServerError(f"redis-server ended with status {process.returncode}")


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], begin: float) -> None:
    while time.perf_counter() - begin < START_SECONDS:
        if process.poll() is not None:
            raise ServerError(f"ended with status {process.returncode}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.02)
    raise ServerError(f"not ready within {START_SECONDS:g} seconds")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process, and then what is left of its group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
