"""`python -m service score`, with a real service and in process."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from service.bulk.command import app
from service.bulk.journal import Journal
from service.bulk.rows import Row
from service.bulk.sources import SourceError, find_items
from service.errors import BadImage
from service.images import encode_png, read_array

PATIENCE = 180.0
SHAPE = (1, 8, 8)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, model_store: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith("VAMP")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VAMP_MODEL_STORE", str(model_store))
    monkeypatch.setenv("VAMP_DEFAULT_MODEL", "tiny-vamp")
    monkeypatch.setenv("VAMP_WORKERS", "1")


@pytest.fixture
def score(environment: None, tmp_path: Path) -> Callable[..., Result]:
    """Runs the command in this process; the output is `scores.csv` unless another one is named."""

    def run(*arguments: object) -> Result:
        output = () if "--output" in arguments else ("--output", tmp_path / "scores.csv")
        return CliRunner().invoke(app, ["score", "--num-samples", "40", *map(str, arguments), *map(str, output)])

    return run


@pytest.fixture
def folder(tmp_path: Path, pngs: list[bytes]) -> Path:
    """The five images in nested folders, and files that are no images."""
    folder = tmp_path / "images"
    for index, png in enumerate(pngs):
        path = folder / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
    (folder / "notes.md").write_text("no image")
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_results_are_those_of_the_service(score: Any, folder: Path, tmp_path: Path, service: Any, pngs: Any) -> None:
    assert score(folder, "--seed", 3).exit_code == 0
    rows = table(tmp_path / "scores.csv")
    order = [0, 2, 4, 1, 3]
    assert [row["file"] for row in rows] == [str(folder / "ab"[index % 2] / f"{index}.png") for index in order]
    files = [("file", pngs[index]) for index in order]
    scores = service.client.post("/loglik?num_samples=40&seed=3", files=files).json()["results"]
    decisions = service.client.post("/novelty?seed=3", files=files).json()["results"]
    for row, expected, decision in zip(rows, scores, decisions, strict=True):
        assert float(row["log_likelihood"]) == expected["log_likelihood"]
        assert float(row["elbo"]) == expected["elbo"]
        assert row["reliability"] == expected["reliability"]
        assert row["novel"] == json.dumps(decision["novel"])
        assert float(row["p_value"]) == decision["p_value"]
        assert float(row["novelty_score"]) == decision["score"]
        assert row["prototypes"].split() == [str(prototype["index"]) for prototype in decision["prototypes"]]
        assert row["error"] == ""


def test_a_service_computes_the_same_as_this_process(score: Any, folder: Path, tmp_path: Path, service: Any) -> None:
    assert score(folder, "--output", tmp_path / "here.csv").exit_code == 0
    assert score(folder, "--output", tmp_path / "there.csv", "--url", service.url).exit_code == 0
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()


def test_every_kind_of_source_gives_the_same_images(
    score: Any, folder: Path, tmp_path: Path, images: Any, pngs: list[bytes]
) -> None:
    levels = (images * 255).astype(np.uint8)
    np.save(tmp_path / "floats.npy", images)
    np.savez(tmp_path / "levels.npz", images=levels[:, 0], labels=np.arange(5), flat=images.reshape(5, 64))
    pq.write_table(
        pa.table({"label": [0] * 5, "image": [{"bytes": png, "path": "x"} for png in pngs]}),
        tmp_path / "images.parquet",
        row_group_size=2,
    )
    (tmp_path / "list.txt").write_text("".join(f"images/{'ab'[i % 2]}/{i}.png\n" for i in range(5)) + "\n")
    sources = [tmp_path / name for name in ("floats.npy", "levels.npz", "images.parquet", "list.txt")]
    assert score(*sources, folder, "--what", "loglik").exit_code == 0  # the folder's images are in the list already
    rows = table(tmp_path / "scores.csv")
    values = [float(row["log_likelihood"]) for row in rows]
    assert len(values) == 25
    for start in range(5, 25, 5):
        assert values[start : start + 5] == values[:5]
    assert [row["file"].removeprefix(f"{tmp_path}/") for row in rows[::5]] == [
        "floats.npy[0]",
        "levels.npz[images][0]",
        "levels.npz[flat][0]",
        "images.parquet[0]",
        "images/a/0.png",
    ]


@pytest.mark.parametrize(
    ("shape", "image", "count"),
    [
        ((7, 8, 8), SHAPE, 7),
        ((7, 1, 8, 8), SHAPE, 7),
        ((3, 8, 8), SHAPE, 3),
        ((3, 8, 8), (3, 8, 8), 1),
        ((8, 8, 3), (3, 8, 8), 1),
        ((7, 8, 8, 3), (3, 8, 8), 7),
        ((8, 8), SHAPE, 1),
        ((7, 64), SHAPE, 7),
        ((1, 64), SHAPE, 1),
    ],
)
def test_arrays_hold_one_image_or_several(tmp_path: Path, shape: Any, image: Any, count: int) -> None:
    levels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.save(tmp_path / "images.npy", levels)
    items = find_items([tmp_path / "images.npy"], image)
    assert len(items) == count
    assert items[-1].read().size == levels.size // count


def test_fractions_are_the_levels_of_an_upload(tmp_path: Path) -> None:
    fractions = np.linspace(0.0, 1.0, 64).reshape(8, 8)
    np.save(tmp_path / "image.npy", fractions)
    (item,) = find_items([tmp_path / "image.npy"], SHAPE)
    levels = read_array((tmp_path / "image.npy").read_bytes(), SHAPE, max_images=1)
    assert item.read().tolist() == levels[0, 0].tolist()


@pytest.mark.parametrize("text", [b'"""', b"((", b"{[]: 1}", b"{'descr': (), 'fortran_order': False, 'shape': (1,)}"])
def test_a_hostile_array_is_one_broken_image(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "image.npy").write_bytes(b"\x93NUMPY\x01\x00" + bytes([len(text), 0]) + text)
    (item,) = find_items([tmp_path], SHAPE)
    with pytest.raises(BadImage, match="cannot be read"):
        item.read()


def test_an_encrypted_archive_is_one_broken_image(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=np.zeros((8, 8), np.uint8))
    content = bytearray((tmp_path / "images.npz").read_bytes())
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "images.npz").write_bytes(content)
    (item,) = find_items([tmp_path], SHAPE)
    with pytest.raises(BadImage, match="encrypted"):
        item.read()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "image.png")
    (item,) = find_items([tmp_path], SHAPE)
    with pytest.raises(BadImage, match="pipe"):
        item.read()


def test_broken_images_are_named_and_the_others_scored(
    score: Any, folder: Path, tmp_path: Path, pngs: list[bytes]
) -> None:
    (folder / "cut.png").write_bytes(pngs[0][:-9])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "large.png").write_bytes(encode_png(np.zeros((1, 9, 9))))
    (folder / "text.npy").write_bytes(b"text")
    np.save(folder / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "values.npy", np.stack([np.full((8, 8), 0.5), np.full((8, 8), np.nan)]))
    (folder / "c.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"image": [pngs[0], None]}), folder / "d.parquet")
    (tmp_path / "list.txt").write_text("images\nnowhere.png\n")
    result = score(tmp_path / "list.txt")
    assert result.exit_code == 1, result.output
    assert "7 images scored by tiny-vamp@10" in result.output
    assert "9 could not be scored" in result.output
    errors = {Path(row["file"]).name: row["error"] for row in table(tmp_path / "scores.csv") if row["error"]}
    assert set(errors) == {
        *("cut.png", "empty.jpg", "large.png", "text.npy", "pickle.npy", "values.npy[1]", "c.parquet", "d.parquet[1]"),
        "nowhere.png",
    }
    assert "--resize" in errors["large.png"]
    assert "No such file" in errors["nowhere.png"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_output_has_the_same_content(score: Any, folder: Path, tmp_path: Path, suffix: str) -> None:
    (folder / "empty.png").write_bytes(b"")
    assert score(folder, "--output", tmp_path / f"scores.{suffix}").exit_code == 1
    assert score(folder).exit_code == 1 if suffix != "csv" else True
    expected = table(tmp_path / "scores.csv")
    if suffix == "jsonl":
        rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    elif suffix == "parquet":
        rows = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    else:
        rows = expected
    assert [list(row) for row in rows] == [list(expected[0])] * 6
    for row, other in zip(rows, expected, strict=True):
        assert str(row["file"]) == other["file"]
        assert (row["error"] or "") == other["error"]
        if not other["error"]:
            assert float(row["p_value"]) == float(other["p_value"])
            assert row["novel"] in (other["novel"], json.loads(other["novel"]))


def test_novel_only_leaves_the_known_out(score: Any, folder: Path, tmp_path: Path) -> None:
    (folder / "empty.png").write_bytes(b"")
    arguments = ("--what", "novelty", "--false-alarm-rate", "0.3")
    assert score(folder, *arguments, "--output", tmp_path / "all.csv").exit_code == 1
    assert score(folder, *arguments, "--novel-only").exit_code == 1
    everything = table(tmp_path / "all.csv")
    assert table(tmp_path / "scores.csv") == [row for row in everything if row["novel"] != "false"]
    assert {row["novel"] for row in everything} == {"true", "false", ""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no file nowhere"),
        ([".", "--output", "scores.txt"], "suffix must be .csv, .jsonl, .parquet"),
        ([".", "--what", "loglik", "--novel-only"], "--novel-only needs"),
        ([".", "--false-alarm-rate", "2"], "between 0 and 1"),
        ([".", "--false-alarm-rate", "0.0001"], "150 calibration images can give no p-value below 0.0066"),
        ([".", "--model", "tiny-vamp@1"], "has no calibration"),
        ([".", "--model", "nothing"], "nothing"),
        ([".", "--html", "scores.csv", "--output", "scores.csv"], "the same file"),
        ([".", "--url", "SERVICE", "--false-alarm-rate", "0.0001"], "can give no p-value"),
        ([".", "--url", "SERVICE", "--model", "nothing"], "the service has no model nothing"),
    ],
)
def test_what_cannot_run_is_said_in_a_line(
    score: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, service: Any, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    result = score(*(service.url if argument == "SERVICE" else argument for argument in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert len(result.output.splitlines()) <= 2  # the other is a progress bar


def test_an_output_is_not_replaced_without_being_told(score: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("mine")
    assert score(folder).exit_code == 2
    assert (tmp_path / "scores.csv").read_text() == "mine"
    assert score(folder, "--overwrite").exit_code == 0
    assert len(table(tmp_path / "scores.csv")) == 5


def test_a_service_that_cannot_be_reached_ends_the_run(score: Any, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("vampprior_client.retries.FIRST_WAIT", 0.0)
    result = score(folder, "--url", "http://127.0.0.1:9")
    assert result.exit_code == 3
    assert "the same command continues" in result.output


# Killed runs.


def test_a_journal_continues_where_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, {"seed": 0}) as journal:
        journal.append([Row(file="a", p_value=0.5), Row(file="b", error="broken")])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with Journal(path, {"seed": 0}) as journal:
            assert journal.done == {row.file for row in journal.rows()}
            journal.append([row for row in (Row(file="a"), Row(file="b")) if row.file not in journal.done])
            assert [row.file for row in journal.rows()] == ["a", "b"]
    with Journal(path, {"seed": 0}), pytest.raises(SourceError, match="another run"):
        Journal(path, {"seed": 0})
    with pytest.raises(SourceError, match="other parameters"):
        Journal(path, {"seed": 1})


KILLED = """
import os, runpy, signal, sys
from service.bulk import run
from service.bulk.journal import Journal

place = sys.argv.pop(1)
append = Journal.append

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def append_in_part(journal, rows):
    append(journal, rows[:5])
    journal._file.write(b'{"file":"cut')
    journal._file.flush()
    die()

def write_in_part(path, rows, columns):
    path.with_name(path.name + ".partial").write_text("cut")
    die()

if place == "append":
    Journal.append = append_in_part
elif place == "output":
    run.write_output = write_in_part
elif place == "delete":
    Journal.delete = die
runpy.run_module("service", run_name="__main__")
"""
"""The command, which is killed in the middle of writing to the journal, while it writes the output, or after that."""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_loses_nothing(score: Any, tmp_path: Path, folder: Path) -> None:
    images = np.random.default_rng(3).integers(0, 2, (20, 8, 8)).astype(np.uint8) * 255
    np.save(tmp_path / "images.npy", images)
    (folder / "empty.png").write_bytes(b"")
    arguments = [str(tmp_path / "images.npy"), str(folder), "--num-samples", "40"]
    assert score(*arguments, "--output", tmp_path / "whole.csv").exit_code == 1

    output, journal = tmp_path / "killed.csv", tmp_path / "killed.csv.journal"

    def run(place: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", KILLED, place, "score", *arguments, "--output", str(output)]
        return subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE)

    kept = b""
    for place, done in [("append", 5), ("append", 10), ("output", 26), ("delete", 26)]:
        assert run(place).returncode == -signal.SIGKILL
        lines = journal.read_bytes()
        assert lines.startswith(kept)  # nothing is scored again
        kept = lines[: lines.rindex(b"\n") + 1]
        assert kept.count(b"\n") == 1 + done
        assert output.exists() == (place == "delete")
    ended = run("nowhere")
    assert ended.returncode == 1
    assert "continuing: 26 of 26 images" in ended.stderr
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "images.npy", "killed.csv", "whole.csv"]


# The report.


@pytest.fixture
def report(score: Any, folder: Path, tmp_path: Path) -> str:
    (folder / "<b onclick=x>&.png").write_bytes(encode_png(np.ones((1, 8, 8))))
    (folder / "\"'<script>.png").write_bytes(b"")
    assert score(folder, "--html", tmp_path / "report.html").exit_code == 1
    return (tmp_path / "report.html").read_text("utf-8")


def test_the_report_needs_nothing_else(report: str) -> None:
    style = re.search(r"<style>(.*?)</style>", report, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in report
    assert set(re.findall(r'(?:src|href)="([^"]{0,22})', report)) == {"data:image/png;base64,"}
    assert not re.search(r"https?://|url\(|@import|<script|<link|\sstyle=|\son\w+=\"", report)


def test_the_report_shows_the_oddest_images_first(report: str, tmp_path: Path) -> None:
    rows = [row for row in table(tmp_path / "scores.csv") if not row["error"]]
    rows.sort(key=lambda row: (float(row["p_value"]), -float(row["novelty_score"])))
    names = re.findall(r"<h3>(.*?)</h3>", report)
    assert [re.sub(r"&\w+;", "?", name) for name in names[2:]] == [re.sub(r"[<>&]", "?", row["file"]) for row in rows]
    assert "&lt;b onclick=x&gt;&amp;.png" in report
    assert "&lt;script&gt;.png" in report
    assert report.count(">where it differs<") == 6
    assert report.count(">prototype ") == 18
    assert report.count('class="chart"') == 2


def test_a_report_by_a_service_is_the_same(score: Any, report: str, folder: Path, tmp_path: Path, service: Any) -> None:
    arguments = ("--url", service.url, "--html", tmp_path / "there.html", "--overwrite")
    assert score(folder, *arguments).exit_code == 1
    assert (tmp_path / "there.html").read_text("utf-8") == report


def test_a_report_without_novelty_shows_the_least_likely(score: Any, folder: Path, tmp_path: Path) -> None:
    arguments = ("--what", "loglik", "--model", "tiny-normal", "--html", tmp_path / "report.html")
    assert score(folder, *arguments).exit_code == 0
    report = (tmp_path / "report.html").read_text("utf-8")
    rows = sorted(table(tmp_path / "scores.csv"), key=lambda row: float(row["log_likelihood"]))
    assert re.findall(r"<h3>(/.*?)</h3>", report) == [row["file"] for row in rows]


def test_an_unknown_command_does_not_start_the_service() -> None:
    ended = subprocess.run([sys.executable, "-m", "service", "serve"], capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 2
    assert "No such command" in ended.stderr
