"""Two processes of the service behind nginx, one of which fails under load."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from vampprior import ModelConfig, build_model
from vampprior.card import Card
from vampprior.checkpoint import save_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.tools]

CLIENTS, REQUESTS = 8, 60  # per client
CONFIG = ModelConfig(image_shape=(1, 8, 8), z1_dim=4, z2_dim=3, hidden_dim=16, num_components=50)


@pytest.fixture
def start(proxy: Any, until: Any, tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a process of the service at an address, and adds it to DNS once it is ready."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_checkpoint(tmp_path / "store" / "tiny" / "1", build_model(CONFIG), Card("tiny", "1", CONFIG))
    settings = {"MODEL_STORE": tmp_path / "store", "DEFAULT_MODEL": "tiny", "PORT": proxy.port, "WORKERS": 1}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VAMP_")}

    def is_ready(address: str) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://{address}:{proxy.port}/health/ready").status_code == 200
        return False

    with contextlib.ExitStack() as stack:

        def run(address: str) -> subprocess.Popen[bytes]:
            variables = {f"VAMP_{name}": str(value) for name, value in (settings | {"HOST": address}).items()}
            with open(tmp_path / f"log-{address}", "wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "service"], env=inherited | variables, stdout=log, stderr=log
                )
            stack.callback(process.wait)
            stack.callback(process.kill)
            until(lambda: is_ready(address))
            proxy.addresses.append(address)
            return process

        yield run


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_no_idempotent_request_is_lost_with_a_replica(
    proxy: Any, start: Any, until: Any, number: signal.Signals
) -> None:
    failing, _ = start("127.0.0.2"), start("127.0.0.3")
    answers: list[httpx.Response] = []
    lock = threading.Lock()

    def load(client: int) -> None:
        for request in range(REQUESTS):
            answer = proxy.client.get(f"/pseudo-inputs?limit={1 + client}&offset={request % 40}")
            with lock:
                answers.append(answer)
                if len(answers) == CLIENTS * REQUESTS // 3:
                    failing.send_signal(number)

    with ThreadPoolExecutor(CLIENTS) as pool:
        for ended in [pool.submit(load, client) for client in range(CLIENTS)]:
            ended.result()
    assert {answer.status_code for answer in answers} == {200}
    assert len(answers) == CLIENTS * REQUESTS
    failing.wait()

    # What is not idempotent is not sent to it either, though DNS still has its address.
    assert {proxy.client.post(f"/sample?seed={seed}").status_code for seed in range(20)} == {200}
