"""A recipe small enough to train in a second, the command line as a function, and a home for small data sets."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from training.__main__ import main
from training.data import Dataset, Pixels, load_dataset
from training.data.archive import Archive, RemoteFile
from training.recipe import Recipe, find_recipe
from training.runs import Run
from training.trainer import Trainer
from vampprior.card import Card, write_card
from vampprior.config import ModelConfig

TINY = """
name = "tiny"
dataset = "digits"

[model]
z1_dim = 4
z2_dim = 4
hidden_dim = 16
num_components = 5

[training]
warmup_epochs = 2
max_epochs = 4
"""


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    return find_recipe(str(recipe_file))


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture
def trainer(recipe: Recipe, digits: Dataset, tmp_path: Path) -> Trainer:
    return Trainer(recipe, digits, tmp_path / "run", torch.device("cpu"))


@pytest.fixture
def checkpoint(recipe: Recipe, digits: Dataset, tmp_path: Path) -> Path:
    """A trained checkpoint in `<tmp_path>/store`."""
    run = Run(recipe, "1", tmp_path / "runs", tmp_path / "store")
    trainer = run.start(digits, torch.device("cpu"))
    run.fit(trainer)
    run.export(trainer)
    return run.checkpoint


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Answer]:
    """`python -m training ...` in this process, with its places under `tmp_path`."""

    def run(name: str, *arguments: object) -> Answer:
        options = {
            "train": ("--runs-dir", tmp_path / "runs", "--store", tmp_path / "store", "--threads", 1),
            "export": ("--runs-dir", tmp_path / "runs", "--store", tmp_path / "store"),
            "evaluate": ("--runs-dir", tmp_path / "runs", "--store", tmp_path / "store", "--threads", 1),
            "calibrate": ("--store", tmp_path / "store", "--threads", 1),
            "data": ("--data-dir", tmp_path / "data"),
            "init": ("--threads", 1),
            "models": ("--store", tmp_path / "store"),
            "table": ("--store", tmp_path / "store"),
            "figure": ("--store", tmp_path / "store"),
        }[name]
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([str(word) for word in (name, *arguments, *options)])
        captured = capsys.readouterr()
        code = exit_info.value.code
        return Answer(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture
def put_card(tmp_path: Path) -> Callable[..., Card]:
    """Writes a card, without weights, into `<tmp_path>/store`: `put_card(name, dataset, log_likelihood, version="2")`.

    Other keywords change its model, or where they are mappings, add to its parts.
    """

    def put(
        name: str,
        dataset: str = "static_mnist",
        log_likelihood: float | None = -85.0,
        *,
        version: str = "1",
        training: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        **model: Any,
    ) -> Card:
        scores = {"log_likelihood": log_likelihood, "log_likelihood_standard_error": 0.25, "elbo": -90.0}
        counts = {"num_images": 10000, "num_samples": 5000, "active_units": {"z2": 26, "z1": 39}}
        run = {"seed": 1, "epochs": 300, "best_epoch": 250, "finished": True, "wall_clock_seconds": 5400.0}
        card = Card(
            name,
            version,
            ModelConfig(**model),
            dataset={"name": dataset, "sizes": {"test": 10000}},
            training=run | {"device": "a GPU"} | (training or {}),
            metrics={} if log_likelihood is None else scores | counts | (metrics or {}),
        )
        folder = tmp_path / "store" / name / version
        folder.mkdir(parents=True)
        write_card(folder, card)
        return card

    return put


@pytest.fixture
def metrics_of() -> Callable[[Path], list[dict[str, float]]]:
    """Gives the lines of a run's metrics.jsonl, without their times."""

    def read(run: Path) -> list[dict[str, float]]:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    return read


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Archive, Mapping[str, bytes], Mapping[str, Pixels]], Archive]]:
    """Moves a data set to a local server: a function of the set, the content of its files, and the arrays they give."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "home"
    folder.mkdir()

    def move(archive: Archive, contents: Mapping[str, bytes], arrays: Mapping[str, Pixels]) -> Archive:
        files = {}
        for key, content in contents.items():
            file = archive.downloads[key]
            (folder / file.name).write_bytes(content)
            url = f"http://127.0.0.1:{server.server_port}/{file.name}"
            files[key] = RemoteFile(url, f"sha256:{hashlib.sha256(content).hexdigest()}")
        stored = {name: replace(archive.arrays[name], shape=array.shape) for name, array in arrays.items()}
        digests = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
        return replace(
            archive,
            arrays={name: replace(array, sha256=array.sha256 and digests[name]) for name, array in stored.items()},
            downloads=files,
        )

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield move
        server.shutdown()
        thread.join()
