from __future__ import annotations

import os

import pytest

from service.settings import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("VAMP_")]:
        monkeypatch.delenv(name)


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
        ("VAMP_QUEUE_LENGTH", "many"),
        ("VAMP_IMAGE_FORMATS", ""),
        ("VAMP_IMAGE_FORMATS", "png,"),
        ("VAMP_IMAGE_FORMATS", "png,gif"),
        ("VAMP_HELD_BODY_BYTES", "1000"),
        ("VAMP_DECODING_PIXELS", "1000"),
        ("VAMP_DEVICE", "gpu"),
        ("VAMP_DEVICE", "cuda:"),
        ("VAMP_DEVICE", "cuda:99"),
        ("VAMP_DEFAULT_MODEL", "../secrets"),
        ("VAMP_DEFAULT_MODEL", "vamp@"),
        ("VAMP_LOG_LEVEL", "loud"),
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
    ],
)
def test_a_bad_value_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert name in message
    assert "\n" not in message


@pytest.mark.parametrize(("there", "device", "good"), [(0, "cuda", False), (1, "cuda", True), (1, "cuda:1", False)])
def test_a_gpu_must_be_there(monkeypatch: pytest.MonkeyPatch, there: int, device: str, good: bool) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    monkeypatch.setenv("VAMP_DEVICE", device)
    if good:
        assert load_settings().device == device
        return
    with pytest.raises(SettingsError, match=f"VAMP_DEVICE is {device}, but PyTorch finds {there or 'no'} GPU"):
        load_settings()


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
    monkeypatch.setenv("VAMP_THREADS", "-1")
    monkeypatch.setenv("VAMP_THREAD", "1")
    with pytest.raises(SettingsError, match=r"VAMP_THREAD is not a setting.*VAMP_PORT.*VAMP_THREADS"):
        load_settings()


def test_an_unknown_variable_is_told_from_its_likely_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAMP_CASHE_URL", "memory://")
    with pytest.raises(SettingsError, match="VAMP_CASHE_URL is not a setting, did you mean VAMP_CACHE_URL"):
        load_settings()


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
