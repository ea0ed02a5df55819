"""The compose files: what is published and handed on, and that nothing grows or restarts without an end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS = {f"VAMP_{name.upper()}": field for name, field in Settings.model_fields.items()}
ENVIRONMENT = dict(entry.partition("=")[::2] for entry in SERVICES["service"]["environment"])
EXAMPLE = dict(re.findall(r"^#(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
DOCKERIGNORE = (ROOT / ".dockerignore").read_text().splitlines()
FIXED = {"VAMP_HOST": "0.0.0.0", "VAMP_PORT": "8000", "VAMP_MODEL_STORE": "/models"}  # inside the container


def default(value: str) -> str:
    """What `${NAME:-value}` stands for if NAME is not set."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value)


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def test_every_setting_reaches_the_service() -> None:
    assert set(ENVIRONMENT) == set(SETTINGS)
    for name, value in ENVIRONMENT.items():
        if name in FIXED:
            assert value == FIXED[name]
        else:  # an empty value hands on what is set, as a reference does
            assert value == "" or value.startswith(f"${{{name}:-")


def test_the_example_lists_every_setting_with_its_default() -> None:
    assert set(EXAMPLE) == set(SETTINGS) - {"VAMP_MODEL_STORE"} | {"PIP_EXTRA_INDEX_URL"}
    for name in set(EXAMPLE) & set(SETTINGS):
        secret = getattr(SETTINGS[name].default, "get_secret_value", None)
        from_code = str(secret() if secret else SETTINGS[name].default)
        inside = "" if name in FIXED else default(ENVIRONMENT[name])
        assert EXAMPLE[name] == (inside or from_code), name


def test_only_the_proxy_and_the_monitoring_are_published_and_on_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "proxy": ["${VAMP_HOST:-127.0.0.1}:${VAMP_PORT:-8000}:8000"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    assert default(published["proxy"][0]) == "127.0.0.1:8000:8000"


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_grows_or_restarts_without_an_end(name: str) -> None:
    service = SERVICES[name]
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}
    assert re.fullmatch(r"on-failure:\d", service["restart"])
    assert service["pids_limit"] <= 512
    assert {"mem_limit", "tmpfs"} <= set(service)
    assert all("size=" in folder for folder in service["tmpfs"])
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


def test_the_monitoring_starts_only_where_it_is_wanted() -> None:
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {"prometheus": ["monitoring"], "grafana": ["monitoring"]}
    mounted = [volume.split(":")[0] for name in profiles for volume in SERVICES[name]["volumes"]]
    assert all((ROOT / folder).is_dir() for folder in mounted if folder.startswith("./"))


def test_requests_under_way_have_time_to_end() -> None:
    stop = seconds(SERVICES["service"]["stop_grace_period"])
    drain, shutdown = (float(default(ENVIRONMENT[f"VAMP_{name}_SECONDS"])) for name in ("DRAIN", "SHUTDOWN"))
    assert drain > 2, "the proxy keeps addresses for 2 seconds (valid=2s)"
    assert stop > drain + shutdown
    assert seconds(SERVICES["proxy"]["stop_grace_period"]) > shutdown


def test_the_proxy_waits_longer_than_the_service_computes() -> None:
    (timeout,) = re.findall(r"proxy_read_timeout (\d+)s;", (ROOT / "deploy" / "nginx" / "nginx.conf").read_text())
    assert float(timeout) > SETTINGS["VAMP_DEADLINE_SECONDS"].default


def test_a_file_of_secrets_is_neither_committed_nor_sent_to_docker() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    assert "*" in DOCKERIGNORE
    assert not any(rule.startswith(("!.", "!*")) for rule in DOCKERIGNORE)


def test_docker_gets_every_package_and_the_model_store() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = [pattern.rstrip("*") for pattern in setuptools["packages"]["find"]["include"]]
    modules = [f"{name}.py" for name in setuptools.get("py-modules", [])]
    needed = {"LICENSE", "README.md", "pyproject.toml", "model_store", *packages, *modules}
    assert {rule.removeprefix("!") for rule in DOCKERIGNORE if rule.startswith("!")} == needed


@pytest.mark.tools
@pytest.mark.parametrize("files", [["docker-compose.yml"], ["docker-compose.yml", "docker-compose.gpu.yml"]])
def test_docker_compose_hands_on_what_is_in_the_environment_and_in_a_file(files: list[str], tmp_path: Path) -> None:
    if shutil.which("docker-compose") is None:
        pytest.skip("there is no docker-compose; on Debian: apt-get install docker-compose")
    for file in files:
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "deploy" / "nginx").mkdir(parents=True)
    (tmp_path / ".env").write_text("VAMP_WORKERS=3\nVAMP_PORT=9000\nVAMP_HOST=0.0.0.0\nVAMP_DRAIN_SECONDS=7\n")
    given = {name: value for name, value in os.environ.items() if not name.startswith("VAMP_")}
    ended = subprocess.run(
        ["docker-compose", *(option for file in files for option in ("--file", file)), "config"],
        cwd=tmp_path,
        env=given | {"VAMP_RATE_LIMIT": "5/minute"},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    services = yaml.safe_load(ended.stdout)["services"]
    environment = {name: value for name, value in services["service"]["environment"].items() if value is not None}
    chosen = {"VAMP_WORKERS": "3", "VAMP_DRAIN_SECONDS": "7", "VAMP_RATE_LIMIT": "5/minute"}
    assert environment.items() >= (chosen | FIXED).items()
    assert "VAMP_API_KEYS" not in environment
    assert ("VAMP_DEVICE" in environment) is (len(files) == 2)
    assert "0.0.0.0:9000" in json.dumps(services["proxy"]["ports"])
