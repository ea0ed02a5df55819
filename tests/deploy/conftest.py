"""The nginx of `deploy/nginx` on this machine, in front of replicas on other loopback addresses."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 180.0  # seconds after which what a test waits for will not happen any more


def free_port(*hosts: str) -> int:
    """A port that is free on each of these addresses."""
    while True:
        with contextlib.ExitStack() as stack:
            port = 0
            try:
                for host in hosts:
                    port = stack.enter_context(socket.create_server((host, port))).getsockname()[1]
            except OSError:
                continue
            return port


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.02)


class DnsServer(socketserver.ThreadingUDPServer):
    """Answers every question for an IPv4 address with `addresses`, on `port` of 127.0.0.1."""

    def __init__(self, addresses: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), DnsAnswer)
        self.addresses = addresses
        self.port: int = self.server_address[1]
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class DnsAnswer(socketserver.BaseRequestHandler):
    """One answer (RFC 1035)."""

    server: DnsServer

    def handle(self) -> None:
        query: bytes = self.request[0]
        question = query[12:]
        address_wanted = question.endswith(struct.pack("!2H", 1, 1))  # type A, class IN
        addresses = self.server.addresses if address_wanted else []
        flags = 0x8180 if addresses else 0x8183  # an answer, or: there is no such name
        header = query[:2] + struct.pack("!5H", flags, 1, len(addresses), 0, 0)
        record = struct.pack("!HHHIH", 0xC00C, 1, 1, 600, 4)  # of the name in the question; 600 s, as Docker's server
        answers = [record + socket.inet_aton(address) for address in addresses]
        self.request[1].sendto(header + question + b"".join(answers), self.client_address)


@pytest.fixture(scope="session")
def free() -> Callable[[], int]:
    """Finds a port that is free on 127.0.0.1."""
    return lambda: free_port("127.0.0.1")


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], object]], None]:
    """Waits until a condition holds."""
    return wait_until


@dataclass
class Proxy:
    """A running nginx.

    url:       where it listens
    addresses: what DNS says the replicas' addresses are; they may change
    port:      port of the replicas, on each of their addresses
    log:       file of its access log
    """

    url: str
    addresses: list[str]
    port: int
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    """nginx with the configuration of the deployment, in which only addresses, ports and folders are replaced."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("there is no nginx; on Debian: apt-get install nginx")
    hosts = [f"127.0.0.{number}" for number in range(2, 6)]
    port, own_port = free_port(*hosts), free_port("127.0.0.1")
    with DnsServer([]) as resolver, open(tmp_path / "log", "wb") as log:
        text = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
        for old, new in {
            "resolver 127.0.0.11 ": f"resolver 127.0.0.1:{resolver.port} ",
            "listen 8000 ": f"listen 127.0.0.1:{own_port} ",
            "http://service:8000;": f"http://service:{port};",
            " /tmp/": f" {tmp_path}/",
        }.items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "nginx.conf").write_text(text)
        arguments = [nginx, "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
        if os.geteuid() == 0:
            arguments += ["-g", "user root;"]  # or its workers cannot write to the test's folder
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
        try:
            running = Proxy(f"http://127.0.0.1:{own_port}", resolver.addresses, port, tmp_path / "log")
            wait_until(lambda: process.poll() is not None or is_open(own_port))
            assert process.poll() is None, running.log.read_text()
            with running.client:
                yield running
        finally:
            process.terminate()
            process.wait()


def is_open(port: int) -> bool:
    """True if something listens on this port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
