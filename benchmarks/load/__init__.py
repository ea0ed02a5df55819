"""Load on a server by wrk: how fast it answers, and how late."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Answers", "LoadError", "Request", "ask", "load", "under_load"]

SCRIPT = Path(__file__).parent / "requests.lua"
WARM_UP_SECONDS = 2


class LoadError(RuntimeError):
    """The load could not be made, or not every request was answered as it should be."""


@dataclass(frozen=True)
class Request:
    """A request of a load; `{seed}` and `{k}` in `target` and in a JSON body vary, see requests.lua.

    body:   text, `@` and the path of a file, or `-` for none
    answer: bytes that a right answer has in it
    """

    target: str
    method: str = "POST"
    content_type: str = "-"
    body: str = "-"
    answer: bytes = b""


@dataclass(frozen=True)
class Answers:
    """How a load was answered; p50 and p99 are latencies in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float

    @property
    def per_second(self) -> float:
        """Throughput."""
        return self.requests / self.seconds


def ask(url: str, request: Request) -> dict[str, str]:
    """Ask once and return the answer's headers, their names in small letters.

    Raises `LoadError` unless the answer is the right one.
    """
    target, body = (text.replace("{seed}", "1").replace("{k}", "1") for text in (request.target, request.body))
    data = None if body == "-" else Path(body[1:]).read_bytes() if body.startswith("@") else body.encode()
    headers = {"Content-Type": request.content_type} if data else {}
    asked = urllib.request.Request(url + target, data, headers, method=request.method)
    with urllib.request.urlopen(asked) as response:
        if request.answer not in response.read():
            raise LoadError(f"{url}{target} gave a wrong answer")
        return {name.lower(): value for name, value in response.headers.items()}


def load(url: str, requests: Sequence[Request], *, clients: int, seconds: float, rate: float = 0.0) -> Answers:
    """Have `clients` ask for `requests` in turn; seeds never come twice.

    Each client asks as soon as it has its last answer. With a `rate` all clients together ask that many times per
    second. A shorter load before it, to warm up, does not count.

    Raises `LoadError` if wrk is not there, an answer is wrong, or a request failed or was refused.
    """
    for request in requests:
        ask(url, request)
    _run(_command(url, requests, clients, WARM_UP_SECONDS, rate))
    return _answers(url, _run(_command(url, requests, clients, seconds, rate)))


def _answers(url: str, output: str) -> Answers:
    """What wrk counted. Raises `LoadError` if a request failed or was refused."""
    counts = json.loads(output.strip().rpartition("\n")[2])
    failures, refusals = counts.pop("failures"), counts.pop("refusals")
    if failures or refusals or not counts["requests"]:
        raise LoadError(f"{url}: of {counts['requests']} requests {failures} failed and {refusals} were refused")
    return Answers(**counts)


@contextlib.contextmanager
def under_load(url: str, requests: Sequence[Request], *, clients: int) -> Iterator[list[Answers]]:
    """Have `clients` ask without pause as long as the block lasts; then the list holds how they were answered.

    Raises `LoadError` as `load` does.
    """
    for request in requests:
        ask(url, request)
    answers: list[Answers] = []
    with subprocess.Popen(_command(url, requests, clients, 3600), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield answers
            if process.poll() is not None:
                raise LoadError("the load in the background ended before its time")
            process.send_signal(signal.SIGINT)  # wrk then prints what it has counted
            answers.append(_answers(url, process.communicate()[0]))
        finally:
            process.kill()


def _command(url: str, requests: Sequence[Request], clients: int, seconds: float, rate: float = 0.0) -> list[str]:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise LoadError("wrk is not on the path; install it, on Debian with: apt-get install wrk")
    command = [wrk, "--threads=1", f"--connections={clients}", f"--duration={max(1, round(seconds))}s"]
    command += ["--timeout=60s", f"--script={SCRIPT}", url, "--", str(secrets.randbelow(2**40) * 500), str(rate)]
    for request in requests:
        command += [request.method, request.target, request.content_type, request.body]
    return command


def _run(command: list[str]) -> str:
    told = subprocess.run(command, capture_output=True, text=True)
    if told.returncode:
        raise LoadError(f"wrk failed: {told.stderr.strip() or told.stdout.strip()}")
    return told.stdout
