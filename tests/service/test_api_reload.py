"""`POST /models/reload`: new checkpoints take over while requests go on, and bad ones leave everything as it was."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

ADMIN = {"X-API-Key": "admin"}


@pytest.fixture
def store(save_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A store of the model `tiny` in version 1."""
    save_model(tmp_path / "store", "tiny", "1", seed=1)
    return tmp_path / "store"


@pytest.fixture
def reloading(serve: Any, store: Path) -> Iterator[Any]:
    with serve(model_store=store, default_model="tiny", admin_keys="admin, other", cache_memory_bytes=0) as service:
        yield service


def reload(service: Any) -> httpx.Response:
    response: httpx.Response = service.client.post("/models/reload", headers=ADMIN)
    return response


def processes(service: Any) -> list[int]:
    """The loader and its workers, once all are there."""
    service.workers()
    return [*service.store._present.engine.supervisor.processes()]


def version(service: Any, model: str = "tiny") -> str:
    response = service.client.post("/sample", params={"model": model})
    assert response.status_code == 200, response.text
    answered: str = response.headers["x-model-version"]
    return answered


def damage(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def test_a_new_version_takes_over_while_requests_go_on(
    reloading: Any, store: Path, save_model: Any, pngs: list[bytes]
) -> None:
    done: list[str] = []

    def ask(number: int) -> list[tuple[int, str]]:
        """Requests until the new version has answered, and some more."""
        answers, more = [], 5
        with httpx.Client(base_url=reloading.url, timeout=180, verify=False) as client:
            while more:
                if number % 2:
                    response = client.post("/loglik?num_samples=600", files={"file": pngs[0]})
                else:
                    response = client.post("/sample?n=3")
                answers.append((response.status_code, response.headers.get("x-model-version", response.text)))
                more -= bool(done) and answers[-1][1] == "2"
        return answers

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, number) for number in range(4)]
        save_model(store, "tiny", "2", seed=2)
        response = reload(reloading)
        done.append("reloaded")
        answers = [future.result() for future in asking]
    assert response.status_code == 200
    assert [(model["version"], model["status"]) for model in response.json()["models"]] == [
        ("2", "ready"),
        ("1", "ready"),
    ]
    for some in answers:
        assert {status for status, _ in some} == {200}
        versions = [version for _, version in some]
        assert versions == sorted(versions)  # first the old one, then the new one


def test_what_the_old_models_have_in_hand_is_finished_and_then_their_processes_end(
    reloading: Any, store: Path, save_model: Any, state: Any
) -> None:
    save_model(store, "tiny", "2", seed=2)
    with reloading.hold():
        old = processes(reloading)
        with reloading.send("/sample?seed=1") as waiting:
            reloading.until(lambda: reloading.queued() == 1)
            assert reload(reloading).status_code == 200
            assert version(reloading) == "2"
            assert all(state(process) == "T" for process in old[1:])
            for process in old[1:]:
                assert process not in processes(reloading)
            reloading.release()
            answer = waiting.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"x-model-version: 1\r\n" in answer.lower()
    reloading.until(lambda: not any(state(process) for process in old))
    assert len(processes(reloading)) == len(old)


def test_a_request_keeps_its_models_while_its_upload_arrives(
    reloading: Any, store: Path, save_model: Any, pngs: list[bytes], state: Any
) -> None:
    save_model(store, "tiny", "2", seed=2)
    old = processes(reloading)
    with reloading.send("/encode", pngs[0][:-1], length=len(pngs[0])) as uploading:
        reloading.until(lambda: reloading.store._present.requests >= 1)
        assert reload(reloading).status_code == 200
        assert version(reloading) == "2"
        assert all(state(process) for process in old)
        uploading.sendall(pngs[0][-1:])
        answer = uploading.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    reloading.until(lambda: not any(state(process) for process in old))


def test_a_bad_new_version_is_reported_while_the_old_one_answers(reloading: Any, store: Path, save_model: Any) -> None:
    damage(save_model(store, "tiny", "2", seed=2))
    response = reload(reloading)
    assert response.status_code == 200
    good, bad = response.json()["models"]
    assert (good["version"], good["status"]) == ("1", "ready")
    assert (bad["version"], bad["status"]) == ("2", "refused")
    assert "sha256" in bad["reason"]
    assert version(reloading) == "1"
    assert reloading.metric("vampprior_model_ready", model="tiny@2") == 0


def test_a_served_checkpoint_that_is_damaged_leaves_everything_as_it_was(
    reloading: Any, store: Path, save_model: Any, problem: Any
) -> None:
    save_model(store, "other", "1", seed=3)
    damage(store / "tiny" / "1")
    before, answer = processes(reloading), reloading.client.post("/sample?seed=1").content
    body = problem(reload(reloading), 409, "reload-refused")
    assert "tiny@1" in body["detail"]
    assert "sha256" in body["detail"]
    assert processes(reloading) == before
    assert reloading.client.post("/sample?seed=1").content == answer
    assert [model["name"] for model in reloading.client.get("/models").json()["models"]] == ["tiny"]
    assert reloading.client.get("/health/ready").status_code == 200


def test_the_default_model_must_stay(reloading: Any, store: Path, save_model: Any, problem: Any) -> None:
    save_model(store, "other", "1", seed=3)
    shutil.rmtree(store / "tiny")
    assert "the default model tiny" in problem(reload(reloading), 409, "reload-refused")["detail"]
    assert version(reloading) == "1"


def test_a_store_that_is_gone_leaves_everything_as_it_was(reloading: Any, store: Path, problem: Any) -> None:
    store.rename(store.with_name("elsewhere"))
    assert "there is no folder" in problem(reload(reloading), 409, "reload-refused")["detail"]
    assert version(reloading) == "1"


def test_a_model_that_left_the_store_answers_no_more(
    reloading: Any, store: Path, save_model: Any, problem: Any
) -> None:
    save_model(store, "other", "1", seed=3)
    assert reload(reloading).status_code == 200
    assert version(reloading, "other") == "1"
    assert reloading.metric("vampprior_model_ready", model="other@1") == 1
    shutil.rmtree(store / "other")
    assert reload(reloading).status_code == 200
    problem(reloading.client.post("/sample?model=other"), 404, "model-not-found")
    assert 'model="other@1"' not in "".join(
        line for line in reloading.client.get("/metrics").text.splitlines() if line.startswith("vampprior_model_ready")
    )


def test_a_reload_while_one_is_under_way_is_refused(
    reloading: Any, store: Path, save_model: Any, hold_loading: Any, problem: Any
) -> None:
    save_model(store, "tiny", "2", seed=2)
    gate = hold_loading("tiny")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(reload, reloading)
        reloading.until(lambda: reloading.client.get("/models").json()["loading"])
        response = reload(reloading)
        problem(response, 409, "reload-under-way")
        assert int(response.headers["retry-after"]) >= 1
        assert version(reloading) == "1"
        gate.set()
        assert first.result().status_code == 200
    assert version(reloading) == "2"


def test_a_reload_goes_on_when_its_client_leaves(
    reloading: Any, store: Path, save_model: Any, hold_loading: Any
) -> None:
    save_model(store, "tiny", "2", seed=2)
    gate = hold_loading("tiny")
    head = f"POST /models/reload HTTP/1.1\r\nHost: test\r\nX-API-Key: {ADMIN['X-API-Key']}\r\n\r\n"
    with reloading.connect() as connection:
        connection.sendall(head.encode())
        reloading.until(lambda: reloading.client.get("/models").json()["loading"])
    reloading.until(
        lambda: reloading.metric("vampprior_http_requests_total", route="/models/reload", status="499") == 1
    )
    gate.set()
    reloading.until(lambda: version(reloading) == "2")


def test_a_stop_during_a_reload_leaves_no_process(
    serve: Any, store: Path, save_model: Any, hold_loading: Any, state: Any, zygote: Any
) -> None:
    give_up = time.monotonic() + 60
    settings = {"model_store": store, "default_model": "tiny", "admin_keys": "admin", "shutdown_seconds": 0}
    with serve(**settings) as service, ThreadPoolExecutor(1) as pool:
        save_model(store, "tiny", "2", seed=2)
        hold_loading("tiny")
        before = len(zygote.pids)
        under_way = pool.submit(reload, service)
        service.until(lambda: len(zygote.pids) > before)
        service.server.should_exit = True
        service.thread.join()
        assert under_way.result().status_code == 503
    while any(state(process) for process in zygote.pids[before - 1 :]):
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("settings", "key", "status", "slug"),
    [
        ({}, None, 403, "forbidden"),
        ({}, "admin", 403, "forbidden"),
        ({"api_keys": "key"}, "key", 403, "forbidden"),
        ({"admin_keys": "admin"}, None, 403, "forbidden"),
        ({"admin_keys": "admin"}, "wrong", 403, "forbidden"),
        ({"admin_keys": "admin", "api_keys": "key"}, "key", 403, "forbidden"),
        ({"admin_keys": "other,admin", "api_keys": "key"}, "admin", 200, ""),
        ({"admin_keys": "admin"}, "admin", 200, ""),
    ],
)
def test_only_an_admin_key_reloads(
    serve: Any, store: Path, problem: Any, settings: dict[str, str], key: str | None, status: int, slug: str
) -> None:
    with serve(model_store=store, default_model="tiny", **settings) as service:
        before = processes(service)
        response = service.client.post("/models/reload", headers={} if key is None else {"X-API-Key": key})
        if status == 200:
            assert response.status_code == 200
            assert processes(service) != before
        else:
            problem(response, status, slug)
            assert processes(service) == before


def test_the_store_is_read_again_when_it_has_changed(
    serve: Any, store: Path, save_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.models.store.WATCH_SECONDS", 0.05)
    with serve(model_store=store, default_model="tiny", watch=True) as service:
        assert version(service) == "1"
        save_model(store, "tiny", "2", seed=2)
        service.until(lambda: version(service) == "2")
        damage(store / "tiny" / "2")
        save_model(store, "tiny", "3", seed=2)  # refused as a whole, since a version that answers is damaged
        save_model(store, "tiny", "2", seed=4)
        service.until(lambda: version(service) == "3")


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ("", ["other@1", "tiny@2", "tiny@1"]),
        ("tiny", ["tiny@2", "tiny@1"]),
        ("tiny@1", ["tiny@1"]),
        ("tiny@1, other", ["other@1", "tiny@1"]),
    ],
)
def test_a_setting_chooses_the_models(
    serve: Any, store: Path, save_model: Any, models: str, expected: list[str]
) -> None:
    save_model(store, "tiny", "2", seed=2)
    save_model(store, "other", "1", seed=3)
    with serve(model_store=store, default_model="tiny", models=models) as service:
        listed = service.client.get("/models").json()["models"]
        assert [f"{model['name']}@{model['version']}" for model in listed] == expected
        assert version(service) == expected[-1 if models.startswith("tiny@1") else expected.index("tiny@2")][-1]


def test_models_that_are_not_chosen_are_not_loaded_by_a_reload_either(serve: Any, store: Path, save_model: Any) -> None:
    with serve(model_store=store, default_model="tiny", models="tiny", admin_keys="admin") as service:
        save_model(store, "other", "1", seed=3)
        assert [model["name"] for model in reload(service).json()["models"]] == ["tiny"]


def test_a_reload_finds_a_store_that_was_not_there_at_the_start(
    serve: Any, save_model: Any, tmp_path: Path, problem: Any
) -> None:
    late = tmp_path / "late"
    with serve(model_store=late, default_model="tiny", admin_keys="admin", ready=False) as service:
        service.until(lambda: not service.client.get("/models").json()["loading"])
        assert "there is no folder" in problem(reload(service), 409, "reload-refused")["detail"]
        save_model(late, "tiny", "1", seed=1)
        assert reload(service).status_code == 200
        assert service.client.get("/health/ready").status_code == 200
        assert version(service) == "1"
