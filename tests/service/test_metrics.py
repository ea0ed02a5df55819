from __future__ import annotations

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics


def test_two_apps_in_a_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.model_ready.labels("vamp@1").set(1)
    assert b"vamp@1" in one.render()[0]
    assert b"vamp@1" not in other.render()[0]


def test_rendering_is_prometheus_text() -> None:
    metrics = Metrics()
    metrics.tasks_total.labels("vamp@1", "draw", "ok").inc()
    body, content_type = metrics.render()
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert content_type.startswith("text/plain")
    (sample,) = families["vampprior_tasks"].samples
    assert sample.labels == {"model": "vamp@1", "operation": "draw", "outcome": "ok"}
    assert sample.value == 1


def test_names_follow_the_conventions() -> None:
    """Counters end in `_total`, what is a time is in seconds, and everything has help."""
    for family in Metrics().registry.collect():
        assert family.documentation, family.name
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_rows")), family.name
        for sample in family.samples:
            assert family.type != "counter" or sample.name.endswith("_total"), sample.name


def test_the_process_is_measured() -> None:
    body = Metrics().render()[0]
    assert b"process_resident_memory_bytes" in body
    assert b"python_info" in body


def test_units_and_their_time_are_counted(serve: Any, pngs: list[bytes]) -> None:
    with serve(workers=1) as service:
        begin = time.perf_counter()
        answer = service.client.post("/loglik?num_samples=5000", content=pngs[0], headers={"Content-Type": "image/png"})
        elapsed = time.perf_counter() - begin
        assert answer.status_code == 200
        assert service.metric("vampprior_tasks_total", operation="score", outcome="ok") == 10
        assert service.metric("vampprior_batch_rows_sum", operation="score") == 5000
        assert service.metric("vampprior_tasks_total", operation="combine", outcome="ok") == 1
        assert 0 < service.metric("vampprior_batch_seconds_sum", operation="score") < elapsed
        assert service.metric("vampprior_queue_requests") == service.metric("vampprior_queue_rows") == 0


def test_names_begin_with_the_service_or_are_standard() -> None:
    for family in Metrics().registry.collect():
        assert family.name.startswith(("vampprior_", "process_", "python_")), family.name


def test_the_memory_of_each_process_is_read_at_a_scrape(serve: Any) -> None:
    def resident(process: int) -> float:
        (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
        return 1024 * int(kilobytes)

    def seen(lane: str, worker: str) -> float:
        return float(service.metric("vampprior_worker_resident_bytes", lane=lane, worker=worker))

    with serve(workers=2) as service:
        service.workers()
        loader, light, *heavy = service.store._present.engine.supervisor.processes()
        assert service.metric("vampprior_workers", lane="light") == 1
        assert service.metric("vampprior_workers", lane="heavy") == 2
        assert seen("loader", "0") == pytest.approx(resident(loader), rel=0.2)
        assert seen("light", "0") == pytest.approx(resident(light), rel=0.2)
        assert seen("heavy", "0") + seen("heavy", "1") == pytest.approx(sum(map(resident, heavy)), rel=0.2)
        assert service.metric("vampprior_process_restarts_total") == 0

        os.kill(heavy[0], signal.SIGKILL)
        service.until(lambda: service.metric("vampprior_process_restarts_total", kind="heavy") == 1)
        service.until(lambda: service.metric("vampprior_workers", lane="heavy") == 2)
        assert service.metric("vampprior_process_deaths_total", kind="heavy") == 1
        service.until(lambda: min(seen("heavy", "0"), seen("heavy", "1")) > 0)
        assert seen("heavy", "2") == 0  # the new process has the number of the one that died
        os.kill(loader, signal.SIGKILL)
        service.until(lambda: service.metric("vampprior_process_restarts_total", kind="loader") == 1)
        service.workers()
        assert service.metric("vampprior_process_restarts_total", kind="heavy") == 1


def test_the_seconds_of_a_queue_are_the_estimate_by_which_it_admits(serve: Any, pngs: list[bytes]) -> None:
    with serve(workers=1, cache_memory_bytes=0) as service, ThreadPoolExecutor() as threads:

        def score() -> int:
            headers = {"Content-Type": "image/png"}
            target = f"{service.url}/loglik?num_samples=5000"
            return httpx.post(target, content=pngs[0], headers=headers, timeout=180, verify=False).status_code

        assert service.metric("vampprior_queue_seconds") == 0
        assert score() == 200  # from which the speed is known
        with service.hold():
            answers = [threads.submit(score) for _ in range(2)]
            service.until(lambda: service.queued() == 2)
            lane = service.store._present.engine.heavy
            assert service.metric("vampprior_queue_seconds", lane="heavy") == lane._expected(0.0) > 0
            assert service.metric("vampprior_queue_seconds", lane="light") == 0
        assert [answer.result() for answer in answers] == [200, 200]
        assert service.metric("vampprior_queue_seconds", lane="heavy") == pytest.approx(0, abs=1e-9)
