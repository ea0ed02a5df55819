from __future__ import annotations

import time
from typing import Any

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
