"""A service on this machine, and a browser that can reach no other."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn

from service.http.app import create_app
from service.settings import Settings
from vampprior import ModelConfig, build_model
from vampprior.card import Card
from vampprior.checkpoint import save_checkpoint

CHROMIUM = "/usr/bin/chromium"
PATIENCE = 180.0  # seconds after which what a test waits for will not happen any more
HOST = "service.test"  # not localhost, for which pages may make exceptions
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {HOST} 127.0.0.1, MAP * ~NOTFOUND",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder as needing a tool, namely Chromium."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.tools)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model that takes the images that the documentation fills in."""
    store, name = tmp_path_factory.mktemp("model_store"), "static_mnist-hvae-vampprior"
    config = ModelConfig(hidden_dim=16, z1_dim=4, z2_dim=3, num_components=50)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_checkpoint(store / name / "1", build_model(config), Card(name, "1", config))
    return store


@pytest.fixture(scope="module")
def url(tiny_store: Path) -> Iterator[str]:
    """Address of a service with the tiny model."""
    with run_service(tiny_store) as url:
        yield url


@pytest.fixture(scope="session")
def serve() -> Callable[..., contextlib.AbstractContextManager[str]]:
    """Runs a service and gives its address: `with serve(store, api_keys="one") as url:`."""
    return run_service


@contextlib.contextmanager
def run_service(store: Path, **settings: Any) -> Iterator[str]:
    """Run a service; gives its address."""
    app = create_app(Settings(model_store=store, workers=1, deadline_seconds=600, **settings))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            give_up = time.monotonic() + PATIENCE
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
                while client.get("/health/ready").status_code != 200:
                    assert time.monotonic() < give_up, "the service did not start"
                    time.sleep(0.02)
            yield f"http://{HOST}:{port}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM}; on Debian: apt-get install chromium")
    profile = tmp_path_factory.mktemp("profile")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=ARGUMENTS, headless=True, viewport={"width": 1300, "height": 1000}
        )
        browser.set_default_timeout(1000 * PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab of the browser's; `page.trouble` lists what its pages complained about."""
    page = browser.new_page()
    page.trouble = []
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on("console", lambda message: page.trouble.append(message.text) if message.type == "error" else None)
    yield page
    page.close()
