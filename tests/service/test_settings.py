from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings, SettingsError, ignored_variables, load_settings


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A store with the default model and one named `faces`, and an environment without other settings."""
    for name in [name for name in os.environ if name.upper().startswith("VAMP_")]:
        monkeypatch.delenv(name)
    store = tmp_path / "store"
    for name in (Settings.model_fields["default_model"].default, "faces"):
        for version in ("1", "2"):
            (store / name / version).mkdir(parents=True)
            (store / name / version / "card.json").touch()
    monkeypatch.setenv("VAMP_MODEL_STORE", str(store))
    return store


def test_an_empty_environment_starts() -> None:
    settings = load_settings()
    assert settings.cache_url == "memory://"
    assert settings.api_key_list() == []


def test_every_setting_can_be_given_and_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAMP_PORT", "9000")
    monkeypatch.setenv("VAMP_API_KEYS", "one, two")
    monkeypatch.setenv("VAMP_DEFAULT_MODEL", "faces@2")
    monkeypatch.setenv("VAMP_RATE_LIMIT", "5 per 10 seconds")
    settings = load_settings()
    assert settings.port == 9000
    assert settings.api_key_list() == ["one", "two"]
    assert settings.default_model == "faces@2"


@pytest.mark.parametrize(
    "value",
    [
        "memory://",
        "redis://cache",
        "redis://:secret@cache:6379/3",
        "redis://cache?health_check_interval=5",
        "rediss://cache:6380/0",
        "unix:///run/redis.sock",
        "unix:///run/redis.sock?db=2",
    ],
)
def test_cache_urls_that_are_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("VAMP_CACHE_URL", value)
    assert load_settings().cache_url == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VAMP_PORT", "65536"),
        ("VAMP_PORT", ""),
        ("VAMP_DEADLINE_SECONDS", "0"),
        ("VAMP_DEADLINE_SECONDS", "nan"),
        ("VAMP_DEADLINE_SECONDS", "inf"),
        ("VAMP_PORT", "tcp://10.0.0.1"),
        ("VAMP_PORT", "http://10.0.0.1:80"),
        ("VAMP_QUEUE_LENGTH", "many"),
        ("VAMP_IMAGE_FORMATS", ""),
        ("VAMP_IMAGE_FORMATS", "png,"),
        ("VAMP_IMAGE_FORMATS", "png,gif"),
        ("VAMP_HELD_BODY_BYTES", "1000"),
        ("VAMP_DECODING_PIXELS", "1000"),
        ("VAMP_DEVICE", "gpu"),
        ("VAMP_DEVICE", "cuda:"),
        ("VAMP_DEFAULT_MODEL", "../secrets"),
        ("VAMP_DEFAULT_MODEL", "vamp@"),
        ("VAMP_LOG_LEVEL", "loud"),
        ("VAMP_OTLP_ENDPOINT", "localhost:4318"),
        ("VAMP_OTLP_ENDPOINT", "grpc://localhost:4317"),
        ("VAMP_OTLP_ENDPOINT", "http://"),
        ("VAMP_RATE_LIMIT", "100"),
        ("VAMP_RATE_LIMIT", "0/minute"),
        ("VAMP_RATE_LIMIT", "1/second; 100/hour"),
        ("VAMP_RATE_LIMIT", "100/fortnight"),
        ("VAMP_API_KEYS", " , "),
        ("VAMP_API_KEYS", "one,"),
        ("VAMP_API_KEYS", "schlüssel"),
        ("VAMP_CACHE_URL", ""),
        ("VAMP_CACHE_URL", "memory"),
        ("VAMP_CACHE_URL", "http://cache"),
        ("VAMP_CACHE_URL", "redis://cache:port"),
        ("VAMP_CACHE_URL", "redis://cache/first"),
        ("VAMP_CACHE_URL", "redis://cache?sockett_timeout=3"),
        ("VAMP_CACHE_URL", "redis://cache?decode_responses=yes"),
        ("VAMP_RATE_LIMIT", f"{10**10}/minute"),
        ("VAMP_RATE_LIMIT", "1/999999999999 years"),
        ("VAMP_RATE_LIMIT", "1e400/minute"),
        ("VAMP_RATE_LIMIT", "9" * 5000 + "/minute"),
    ],
)
def test_a_bad_value_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert name in message
    assert "\n" not in message


NUMBERS = [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]


@pytest.mark.parametrize(
    "value", ["1e400", "-1e400", "inf", "-inf", "nan", "-1", "9" * 30, "9" * 400, "9" * 5000, "1e30", "", "0x10", "1,5"]
)
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_bounds(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    variable = f"VAMP_{name.upper()}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith(f"Bad setting: {variable} ")
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_may_be_as_large_as_its_bound(name: str) -> None:
    field: Any = Settings.model_fields[name]
    (most,) = [item.le for item in field.metadata if hasattr(item, "le")]
    room = {
        "held_body_bytes": 2**40,
        "held_stream_bytes": 2**40,
        "decoding_pixels": 10**12,
    }  # at least the largest body, and image
    assert getattr(Settings(**(room | {name: most})), name) == most


LINKS = {
    "VAMP_PORT": "tcp://10.96.12.7:8000",
    "VAMP_SERVICE_HOST": "10.96.12.7",
    "VAMP_SERVICE_PORT": "8000",
    "VAMP_SERVICE_PORT_HTTP": "8000",
    "VAMP_PORT_8000_TCP": "tcp://10.96.12.7:8000",
    "VAMP_PORT_8000_TCP_PROTO": "tcp",
    "VAMP_PORT_8000_TCP_PORT": "8000",
    "VAMP_PORT_8000_TCP_ADDR": "10.96.12.7",
    "VAMP_PORT_53_UDP_ADDR": "fd00::7",
    "VAMP_REDIS_SERVICE_HOST": "10.96.12.8",
    "VAMP_REDIS_PORT": "tcp://10.96.12.8:6379",
    "VAMP_NAME": "/web/vamp",
    "VAMP_ENV_PYTHON_VERSION": "3.11",
}


def test_variables_that_announce_a_service_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VAMP_QUEUE_LENGTH", "7")
    settings = load_settings()
    assert (settings.port, settings.queue_length) == (8000, 7)
    assert ignored_variables() == sorted(LINKS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VAMP_SERVICE_HOST", "not an address"),
        ("VAMP_SERVICE_PORT", "http"),
        ("VAMP_SERVICE_PORTS", "8000"),
        ("VAMP_PORT_8000_TCP", "8000"),
        ("VAMP_PORT_TCP", "tcp://10.96.12.7:8000"),
        ("VAMP_PORT_8000_TCP_PROTO", "http"),
        ("VAMP_REDIS_PORT", "6379"),
        ("VAMP_NAME", "vamp"),
        ("vamp_service_port", "8000"),
    ],
)
def test_other_variables_of_the_same_names_are_not(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name} is not a setting"):
        load_settings()


def without_store(store: Path) -> None:
    store.rename(store.with_name("moved"))


def as_file(store: Path) -> None:
    without_store(store)
    store.touch()


def without_default(store: Path) -> None:
    (store / Settings.model_fields["default_model"].default).rename(store / "renamed")


def without_cards(store: Path) -> None:
    for card in (store / Settings.model_fields["default_model"].default).glob("*/card.json"):
        card.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_store, r"VAMP_MODEL_STORE is .*, but there is no folder /.*"),
        (as_file, r"VAMP_MODEL_STORE is .*, but /.* is not a folder"),
        (without_default, r"VAMP_DEFAULT_MODEL is static.*, but /.* has only the models faces, renamed"),
        (without_cards, r"VAMP_DEFAULT_MODEL is static.*, but /.* has no version with a card.json"),
    ],
)
def test_a_store_without_the_default_model_stops_the_start(
    store: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(store)
    with pytest.raises(SettingsError, match=f"^Bad setting: {message}$"):
        load_settings()


def test_a_version_that_is_not_there_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAMP_DEFAULT_MODEL", "faces@3")
    with pytest.raises(SettingsError, match=r"VAMP_DEFAULT_MODEL is faces@3, but .* has only the versions 1, 2 with"):
        load_settings()


@pytest.mark.parametrize(
    "path", [".", Settings.model_fields["default_model"].default], ids=["the store", "the default model"]
)
def test_a_store_that_may_not_be_read_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, unprivileged: Any, shared_folder: Path, store: Path, path: str
) -> None:
    (shared_folder / "store").mkdir()
    for name in ("faces", Settings.model_fields["default_model"].default):
        (shared_folder / "store" / name / "1").mkdir(parents=True)
        (shared_folder / "store" / name / "1" / "card.json").touch()
    monkeypatch.setenv("VAMP_MODEL_STORE", str(shared_folder / "store"))
    load_settings()
    (shared_folder / "store" / path).chmod(0)
    with unprivileged(), pytest.raises(SettingsError, match=f"permission denied: {shared_folder}"):
        load_settings()


def test_a_store_that_does_not_answer_does_not_keep_the_start_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr("service.settings.check_store", lambda *_: answered.wait(120))
    monkeypatch.setattr("service.settings.STORE_CHECK_SECONDS", 0.01)
    load_settings()
    assert not answered.is_set()
    answered.set()


def test_the_largest_body_and_image_must_find_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAMP_MAX_BODY_BYTES", "200000000")
    monkeypatch.setenv("VAMP_MAX_IMAGE_PIXELS", "20000000")
    with pytest.raises(SettingsError, match=r"VAMP_HELD_BODY_BYTES .* VAMP_MAX_BODY_BYTES.*VAMP_DECODING_PIXELS"):
        load_settings()
    monkeypatch.setenv("VAMP_HELD_BODY_BYTES", "200000000")
    monkeypatch.setenv("VAMP_DECODING_PIXELS", "20000000")
    assert load_settings().image_format_list() == ["png", "jpeg", "webp"]


def test_all_that_is_wrong_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAMP_PORT", "-1")
    monkeypatch.setenv("VAMP_WORKERS", "-1")
    monkeypatch.setenv("VAMP_WORKER", "1")
    with pytest.raises(SettingsError, match=r"VAMP_WORKER is not a setting.*VAMP_PORT.*VAMP_WORKERS"):
        load_settings()


def test_an_unknown_variable_is_told_from_its_likely_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAMP_CASHE_URL", "memory://")
    with pytest.raises(SettingsError, match="VAMP_CASHE_URL is not a setting, did you mean VAMP_CACHE_URL"):
        load_settings()


def test_a_variable_that_was_renamed_is_told_its_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAMP_THREADS", "2")
    with pytest.raises(SettingsError, match="VAMP_THREADS is now VAMP_WORKERS"):
        load_settings()


@pytest.mark.parametrize(
    ("models", "default", "good"),
    [
        ("", "faces", True),
        ("faces", "faces@2", True),
        ("faces@2", "faces", True),
        ("faces@1, faces@2", "faces@2", True),
        ("faces@1", "faces@2", False),
        ("other", "faces", False),
        ("other,,faces", "faces", True),
    ],
)
def test_the_models_that_are_loaded_must_have_the_default_one_among_them(
    monkeypatch: pytest.MonkeyPatch, models: str, default: str, good: bool
) -> None:
    monkeypatch.setenv("VAMP_MODELS", models)
    monkeypatch.setenv("VAMP_DEFAULT_MODEL", default)
    if good:
        assert load_settings().model_names() == [name.strip() for name in models.split(",") if name]
    else:
        with pytest.raises(SettingsError, match=f"VAMP_MODELS leaves out VAMP_DEFAULT_MODEL, {default}"):
            load_settings()


@pytest.mark.parametrize(("cpus", "counts"), [(1, (1, 1)), (2, (1, 2)), (8, (2, 8)), (64, (4, 64))])
def test_there_is_a_heavy_worker_for_each_cpu_unless_one_says_how_many(
    monkeypatch: pytest.MonkeyPatch, cpus: int, counts: tuple[int, int]
) -> None:
    monkeypatch.setattr("service.settings.available_cpus", lambda: cpus)
    assert tuple(load_settings().worker_counts().values()) == counts
    monkeypatch.setenv("VAMP_WORKERS", "3")
    assert load_settings().worker_counts()["heavy"] == 3


def test_the_variable_of_training_is_not_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAMP_DATA_DIR", "data")
    load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VAMP_API_KEYS", "hunter2,\t,"),
        ("VAMP_CACHE_URL", "redis://:hunter2@cache/first"),
        ("VAMP_CACHE_URL", "redis://:hunter2@cache:port"),
        ("VAMP_CACHE_URL", "redis://:hunter2@cache?sockett_timeout=3"),
        ("VAMP_CACHE_URL", "http://:hunter2@cache"),
    ],
)
def test_a_secret_is_not_printed(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_keys_are_not_in_the_settings_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAMP_API_KEYS", "hunter2")
    assert "hunter2" not in repr(load_settings())
