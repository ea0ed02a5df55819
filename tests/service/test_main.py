"""`python -m service` as an operator meets it: how it starts, how it stops, and what it prints."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.__main__ import main

PATIENCE = 180.0


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment without settings."""
    for name in [name for name in os.environ if name.upper().startswith("VAMP_")]:
        monkeypatch.delenv(name)
    return monkeypatch


class Process:
    """A service in a process of its own."""

    def __init__(self, log: Path, code: str | None = None, **settings: object) -> None:
        self.log = log
        variables = {f"VAMP_{name.upper()}": str(value) for name, value in settings.items()}
        command = [sys.executable, "-m", "service"] if code is None else [sys.executable, "-c", code]
        with open(log, "wb") as file:
            self.process = subprocess.Popen(command, env=os.environ | variables, stderr=file, stdout=file)

    def printed(self) -> str:
        return self.log.read_text()

    def until(self, condition: Callable[[], Any]) -> Any:
        give_up = time.monotonic() + PATIENCE
        while not (result := condition()):
            assert self.process.poll() is None, self.printed()
            assert time.monotonic() < give_up, self.printed()
            time.sleep(0.02)
        return result

    def url(self) -> str:
        """Where it listens, once it does."""
        return str(self.until(lambda: re.search(r"running on (http://127\.0\.0\.1:\d+)", self.printed()))[1])

    def ready(self) -> str:
        """Where it listens, once it is ready."""
        url = self.url()
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            self.until(lambda: client.get("/health/ready").status_code == 200)
        return url

    def wait(self) -> int:
        return self.process.wait(PATIENCE)


@pytest.fixture
def start(environment: Any, model_store: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts `python -m service` with these settings."""
    defaults = {"model_store": model_store, "default_model": "tiny-vamp", "port": 0, "workers": 1}
    with contextlib.ExitStack() as stack:

        def run(**settings: object) -> Process:
            process = Process(tmp_path / "log", **(defaults | settings))
            stack.callback(process.process.wait)
            stack.callback(process.process.kill)
            return process

        yield run


@contextlib.contextmanager
def score(url: str, png: bytes, num_samples: int) -> Iterator[socket.socket]:
    """A request that is under way, and whose answer nobody has read yet."""
    lines = [f"POST /loglik?num_samples={num_samples} HTTP/1.1", "Host: test", "Content-Type: image/png"]
    head = "\r\n".join([*lines, f"Content-Length: {len(png)}", "", ""])
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=PATIENCE) as connection, httpx.Client(base_url=url) as client:
        connection.sendall(head.encode() + png)
        give_up = time.monotonic() + PATIENCE
        while 'vampprior_queue_requests{lane="heavy"} 1.0' not in client.get("/metrics").text:
            assert time.monotonic() < give_up
        yield connection


def test_sigterm_lets_requests_finish_and_exits_with_0(start: Any, pngs: list[bytes]) -> None:
    service = start(shutdown_seconds=PATIENCE)
    with score(service.ready(), pngs[0], 50_000) as connection:
        service.process.send_signal(signal.SIGTERM)
        with connection.makefile("rb") as file:
            answer = file.read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"num_samples":50000' in answer
    assert service.wait() == 0
    assert "Traceback" not in service.printed()
    for line in service.printed().splitlines():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_ends_it_with_0(start: Any, number: signal.Signals) -> None:
    service = start()
    status = Path(f"/proc/{service.process.pid}/status")
    caught = 1 << signal.SIGTERM - 1
    service.until(lambda: int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) & caught)  # type: ignore[index]
    service.process.send_signal(number)
    assert service.wait() == 0
    assert "Traceback" not in service.printed()


def test_draining_comes_before_the_sockets_close(start: Any) -> None:
    service = start(drain_seconds=PATIENCE)
    with httpx.Client(base_url=service.ready(), timeout=PATIENCE) as client:
        service.process.send_signal(signal.SIGTERM)
        service.until(lambda: client.get("/health/ready").status_code == 503)
        assert client.post("/sample").status_code == 200
    service.process.send_signal(signal.SIGTERM)  # a second one ends the draining
    assert service.wait() == 0


def test_sigterm_does_not_wait_for_a_request_without_an_end(start: Any, pngs: list[bytes]) -> None:
    endless = 10**9
    service = start(shutdown_seconds=0, max_num_samples=endless, queued_rows=endless, deadline_seconds=10**6)
    with score(service.ready(), pngs[0], endless) as connection, connection.makefile("rb") as file:
        service.process.send_signal(signal.SIGTERM)
        answer = file.read()
        assert service.wait() == 0
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"application/problem+json" in answer
    assert "Traceback" not in service.printed()


HUNG = """
import runpy, threading
import {module}
{module}.{function} = lambda *_: threading.Event().wait()
runpy.run_module("service", run_name="__main__")
"""
"""The service with a function that never returns, as one that reads a file of a hung network mount."""


@pytest.mark.parametrize("function", ["find_names", "find_versions"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_does_not_wait_for_files_that_hang(start: Any, function: str, number: signal.Signals) -> None:
    service = start(code=HUNG.format(module="service.models.store", function=function), shutdown_seconds=10**6)
    url = service.url()
    assert httpx.get(f"{url}/health/ready").status_code == 503
    assert httpx.get(f"{url}/health/live").status_code == 200
    service.process.send_signal(number)
    assert service.wait() == 0
    assert "Traceback" not in service.printed()


@pytest.mark.parametrize("file", ["card.json", "model.safetensors"])
def test_a_pipe_in_the_store_blocks_neither_the_other_models_nor_a_stop(
    start: Any, save_model: Any, tmp_path: Path, file: str
) -> None:
    for name in ("alpha", "tiny"):
        save_model(tmp_path / "store", name, "1", seed=1)
    path = tmp_path / "store" / "alpha" / "1" / file
    path.unlink()
    os.mkfifo(path)
    service = start(model_store=tmp_path / "store", default_model="tiny", shutdown_seconds=PATIENCE)
    models = httpx.get(f"{service.ready()}/models").json()["models"]
    assert [(model["name"], model["status"]) for model in models] == [("tiny", "ready"), ("alpha", "refused")]
    assert "not a regular file" in models[1]["reason"]
    service.process.send_signal(signal.SIGTERM)
    assert service.wait() == 0


def test_a_service_of_the_same_name_is_ignored_with_a_line(start: Any, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("VAMP_SERVICE_HOST", "10.96.12.7")
    environment.setenv("VAMP_PORT_8000_TCP", "tcp://10.96.12.7:8000")
    service = start()
    service.ready()
    lines = [json.loads(line) for line in service.printed().splitlines()]
    (warning,) = [line["message"] for line in lines if line["level"] == "warning"]
    assert warning.endswith("VAMP_PORT_8000_TCP, VAMP_SERVICE_HOST")


def test_a_store_that_is_not_there_stops_the_start_with_one_line(start: Any, tmp_path: Path) -> None:
    service = start(model_store=tmp_path / "nowhere")
    assert service.wait() == 2
    (line,) = service.printed().splitlines()
    assert line.endswith(f"there is no folder {tmp_path / 'nowhere'}")


def test_a_port_in_use_is_said_in_a_line(start: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = start(port=port)
        assert service.wait() == 1
    assert "Traceback" not in service.printed()
    lines = [json.loads(line) for line in service.printed().splitlines()]
    (error,) = [line["message"] for line in lines if line["level"] == "error"]
    assert str(port) in error


def test_bad_settings_stop_the_start_with_one_line(start: Any) -> None:
    service = start(port="high", cashe_url="memory://")
    assert service.wait() == 2
    (line,) = service.printed().splitlines()
    assert "VAMP_PORT" in line
    assert "VAMP_CASHE_URL is not a setting, did you mean VAMP_CACHE_URL?" in line


@pytest.mark.parametrize(
    ("name", "value"), [("VAMP_PORT", "70000"), ("VAMP_MODEL", "tiny"), ("VAMP_RATE_LIMIT", "often"), ("VAMP_", "1")]
)
def test_a_bad_setting_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    environment.setenv(name, value)
    assert main() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(rf"service: Bad setting: {name} .*\n", captured.err)
