"""Prometheus' rules and Grafana's dashboard of `deploy/`, with the metrics of a running service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml
from prometheus_client.parser import text_string_to_metric_families

from vampprior import ModelConfig, build_model
from vampprior.card import Card
from vampprior.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[2]
PROMETHEUS, GRAFANA = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "grafana"
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((GRAFANA / "dashboards" / "vampprior.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
PANEL_QUERIES = [target["expr"].replace("$__rate_interval", "1m") for panel in PANELS for target in panel["targets"]]
CONFIG = ModelConfig(image_shape=(1, 8, 8), z1_dim=4, z2_dim=3, hidden_dim=16, num_components=6)
PATIENCE = 180.0


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, free: Callable[[], int], until: Any) -> Iterator[str]:
    """A service in a process of its own that has done a bit of everything that is counted."""
    folder = tmp_path_factory.mktemp("monitored")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_checkpoint(folder / "store" / "tiny" / "1", build_model(CONFIG), Card("tiny", "1", CONFIG))
    settings = {"MODEL_STORE": folder / "store", "DEFAULT_MODEL": "tiny", "PORT": free(), "WORKERS": 1}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VAMP_")}
    given = {f"VAMP_{name}": str(value) for name, value in settings.items()}
    with open(folder / "log", "wb") as log:
        command = [sys.executable, "-m", "service"]
        process = subprocess.Popen(command, cwd=ROOT, env=inherited | given, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{settings['PORT']}"
    try:
        until(lambda: answers(f"{address}/health/ready") or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        for _ in range(2):
            assert httpx.post(f"{address}/sample?seed=1").status_code == 200  # missed, then cached
        assert httpx.post(f"{address}/sample?pseudo_input=99").status_code == 404
        assert httpx.get(f"{address}/models", headers={"X-Large": "x" * 20_000}).status_code == 431
        yield address
    finally:
        process.terminate()
        process.wait()


def answers(address: str) -> bool:
    try:
        return httpx.get(address).status_code == 200
    except httpx.TransportError:
        return False


def promtool(*arguments: str, given: str = "") -> None:
    """Run promtool; fails with what it says unless all is well."""
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool; on Debian: apt-get install prometheus")
    ended = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.tools
def test_the_configuration_and_the_rules_are_valid() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    promtool("check", "rules", str(PROMETHEUS / "rules.yml"))


@pytest.mark.tools
def test_alerts_fire_for_faults_and_for_nothing_else(tmp_path: Path) -> None:
    shutil.copy(PROMETHEUS / "rules.yml", tmp_path)
    shutil.copy(Path(__file__).parent / "rules_test.yml", tmp_path)
    promtool("test", "rules", str(tmp_path / "rules_test.yml"))


@pytest.mark.tools
def test_the_metrics_follow_the_conventions(url: str) -> None:
    promtool("check", "metrics", given=httpx.get(f"{url}/metrics").text)


def test_rules_and_dashboard_name_metrics_that_there_are(url: str) -> None:
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    scraped = {sample.name for family in families for sample in family.samples}
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    for query in [rule["expr"] for rule in RULES] + PANEL_QUERIES:
        names = set(re.findall(r"(?:\w+:)?(?:vampprior|process|python)_\w+(?::\w+)?", query))
        assert names or "up{" in query, query
        assert names <= scraped | recorded, query


@pytest.mark.tools
def test_prometheus_finds_series_for_each_panel(url: str, tmp_path: Path, free: Callable[[], int], until: Any) -> None:
    """With the configuration of the deployment, in which only the address, the folder and the intervals are others."""
    if shutil.which("prometheus") is None:
        pytest.skip("there is no prometheus; on Debian: apt-get install prometheus")
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = configuration["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [url.removeprefix("http://")]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    shutil.copy(PROMETHEUS / "rules.yml", tmp_path)
    address = f"127.0.0.1:{free()}"
    command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        until(lambda: answers(f"http://{address}/-/ready") or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "log").read_text()
        with httpx.Client(base_url=f"http://{address}/api/v1", timeout=PATIENCE) as client:

            def empty() -> list[str]:
                found = []
                for query in PANEL_QUERIES:
                    answer = client.get("/query", params={"query": query}).json()
                    assert answer["status"] == "success", answer
                    if not answer["data"]["result"]:
                        found.append(query)
                return found

            until(lambda: not empty())
            (group, alerts) = client.get("/rules").json()["data"]["groups"]
            health = [rule["health"] for rule in group["rules"] + alerts["rules"]]
            assert health == ["ok"] * len(RULES)
    finally:
        process.terminate()
        process.wait()


def test_the_dashboard_uses_the_data_source_that_is_provisioned() -> None:
    provisioned = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())
    (source,) = provisioned["datasources"]
    for panel in PANELS:
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "vampprior.yml").read_text())["providers"]
    mounted = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounted
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]}
    assert len(places) == len(numbers), "panels lie over each other"
