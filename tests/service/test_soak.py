"""Thousands of requests of every kind to one process: none fails, and its memory does not grow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

CLIENTS = 8
PATIENCE = 180.0  # seconds after which what a test waits for will not happen any more
MIB = 2**20


def processes(parent: int) -> list[int]:
    """This process and those that it started."""
    found = [parent]
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += processes(int(child))
    return found


def memory(process: int) -> int:
    """Bytes of memory that belong to this process and those that it started."""
    total = 0
    for number in processes(process):
        status = Path(f"/proc/{number}/status").read_text()
        total += 1024 * sum(map(int, re.findall(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)))
    return total


@pytest.fixture
def service(model_store: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, int]]:
    """A client of a process of the service, and the number of that process."""
    settings = {"MODEL_STORE": model_store, "DEFAULT_MODEL": "tiny-vamp", "PORT": 0, "WORKERS": 1}
    variables = {name: value for name, value in os.environ.items() if not name.startswith("VAMP_")}
    variables |= {f"VAMP_{name}": str(value) for name, value in settings.items()}
    variables["VAMP_CACHE_MEMORY_BYTES"] = str(4 * MIB)  # so that it is full early
    log = tmp_path / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "service"], env=variables, stdout=file, stderr=file)
    try:
        give_up = time.monotonic() + PATIENCE

        def until(condition: Any) -> Any:
            while not (result := condition()):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < give_up, log.read_text()
                time.sleep(0.02)
            return result

        url = until(lambda: re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text()))[1]
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            until(lambda: client.get("/health/ready").status_code == 200)
            yield client, process.pid
    finally:
        process.terminate()
        process.wait()


def ask(client: httpx.Client, seed: int, png: bytes) -> int:
    """One request, of a kind that depends on its seed; the status of the answer."""
    image = {"content": png, "headers": {"Content-Type": "image/png"}}
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", f"/sample?n={1 + seed % 64}&seed={seed}", {}),
        ("POST", f"/reconstruct?mode=draw&seed={seed}", image),
        ("POST", f"/loglik?num_samples=100&seed={seed}", image),
        ("POST", "/encode", image),
        ("GET", f"/pseudo-inputs?offset={seed % 6}", {}),
        ("POST", f"/sample?pseudo_input={10**6 + seed}", {}),  # answered 404
    ]
    method, path, options = kinds[seed % len(kinds)]
    return client.request(method, path, **options).status_code


def test_memory_does_not_grow_with_the_number_of_requests(service: Any, pngs: list[bytes]) -> None:
    client, process = service
    measured = []
    for part in range(3):
        with ThreadPoolExecutor(CLIENTS) as pool:
            seeds = range(part * 3000, (part + 1) * 3000)
            statuses = list(pool.map(lambda seed: ask(client, seed, pngs[0]), seeds))
        assert (statuses.count(200), statuses.count(404)) == (2500, 500)
        measured.append(memory(process))
    assert measured[2] - measured[1] < 16 * MIB, measured
