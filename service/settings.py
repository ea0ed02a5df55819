"""Settings from `VAMP_*` environment variables, each with what it bounds and the status a client sees."""

from __future__ import annotations

import difflib
import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

from limits import parse_many
from pydantic import Field, RedisDsn, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.asyncio import ConnectionPool

from hardware import available_cpus
from service.images import FORMATS
from service.models.catalog import StoreError, check_store
from service.models.mirror import Mirror, is_remote
from service.threads import start_thread
from service.tracing import is_installed
from vampprior.card import CHECKPOINT_NAME

__all__ = ["Settings", "SettingsError", "ignored_variables", "load_settings"]

PREFIX = "VAMP_"
TRAINING_VARIABLES = {"VAMP_DATA_DIR"}
RENAMED = {"VAMP_THREADS": "VAMP_WORKERS"}
MAX_SECONDS = 31_536_000
"""A year: the upper bound of every time that has no narrower one."""
MAX_LIGHT_WORKERS = 4
STORE_CHECK_SECONDS = 5.0
"""How long the start waits for the model store. A store that answers later is read while the service runs."""

SERVICE_LINK = re.compile(
    r"""VAMP(_[A-Z0-9]+)*_(
        SERVICE_HOST=[\w.:-]+
        | SERVICE_PORT(_[A-Z0-9_]+)?=\d+
        | PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://\S+:\d+
        | PORT_\d+_(TCP|UDP|SCTP)_(PROTO=(tcp|udp|sctp)|PORT=\d+|ADDR=[\w.:-]+)
        | NAME=/[\w.-]+/[\w.-]+
        | ENV_\w+=.*
    )""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
"""`NAME=value` of variables that Kubernetes sets for a Service named `vamp` or `vamp-...`, and Docker for a link."""


class SettingsError(ValueError):
    """The service cannot start with this environment; the message is one line that names each bad variable."""


class Settings(BaseSettings):
    """Everything an operator can set. An unknown `VAMP_*` variable or a bad value stops the start."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", allow_inf_nan=False)

    model_store: str = Field(
        default="model_store",
        min_length=1,
        description="Folder of checkpoints, `<name>/<version>/`, or an address such as `s3://bucket/models`, which "
        "fsspec reads.",
    )
    model_cache: Path = Field(
        default=Path("~/.cache/vampprior/models"), description="Folder of copies of a store at an address."
    )
    default_model: str = Field(
        default="static_mnist-hvae-vampprior",
        description="Model that answers when a request names none, `name` or `name@version`.",
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    root_path: str = Field(
        default="", description="Path under which a proxy serves this service, such as `/models`; empty for none."
    )
    trusted_proxies: str = Field(
        default="",
        description="Comma-separated addresses or networks of proxies whose `X-Forwarded-For` and "
        "`X-Forwarded-Proto` are believed; empty believes none.",
    )
    device: str = Field(default="auto", description="Where models compute: `auto`, `cpu`, `cuda` or `cuda:N`.")
    workers: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Processes for log-likelihoods and other heavy work, beside those for light work; 0 takes one for "
        "each CPU that this process may use. On a GPU there is one process for all work.",
    )
    models: str = Field(
        default="", description="Comma-separated models to load, `name` or `name@version`; empty loads all."
    )
    watch: bool = Field(default=False, description="Whether models are loaded again when the store changes.")

    queue_length: int = Field(
        default=256,
        ge=1,
        le=1_000_000,
        description="Requests of light work, and as many of heavy work, that may wait or be computed; one more is "
        "answered 503.",
    )
    queued_rows: int = Field(
        default=2_000_000,
        ge=1,
        le=10**12,
        description="Network rows (images times samples) of light work, and as many of heavy work, that may wait or be "
        "computed; more are answered 503.",
    )
    deadline_seconds: float = Field(
        default=60.0,
        gt=0,
        le=MAX_SECONDS,
        description="Longest wait plus computation of a request; past it the answer is 504.",
    )
    shutdown_seconds: float = Field(
        default=10.0,
        ge=0,
        le=MAX_SECONDS,
        description="Time that requests under way get to finish once the service is told to stop.",
    )

    drain_seconds: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="Time between becoming unready and closing the sockets once the service is told to stop, for load "
        "balancers to notice.",
    )

    max_connections: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Open connections. A further one displaces the longest idle one; if none is idle, it is answered "
        "503, except for health checks and metrics.",
    )
    max_header_bytes: int = Field(
        default=16 * 1024,
        ge=1024,
        le=1024 * 1024,
        description="Size of a request line with its headers; larger ones are answered 431.",
    )
    header_seconds: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Time for the headers of a request to arrive; past it the answer is 408, or none if nothing came.",
    )
    keep_alive_seconds: float = Field(
        default=75.0, gt=0, le=86_400, description="Time between two requests of a connection; past it, it is closed."
    )
    send_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Time without a client taking any of its answer; past it the connection is dropped.",
    )

    max_body_bytes: int = Field(
        default=16 * 1024 * 1024, ge=1, le=2**30, description="Largest request body; a larger one is answered 413."
    )
    max_images: int = Field(default=64, ge=1, le=100_000, description="Images in one request; more are answered 413.")
    max_image_pixels: int = Field(
        default=4_000_000,
        ge=1,
        le=80_000_000,
        description="Pixels of one uploaded image before resizing; more are answered 413.",
    )
    max_request_pixels: int = Field(
        default=16_000_000,
        ge=1,
        le=10**9,
        description="Pixels of all images of one request before resizing; more are answered 413.",
    )
    image_formats: str = Field(
        default="png,jpeg,webp",
        description="Comma-separated formats of uploaded images: `png`, `jpeg`, `webp`; others are answered 415.",
    )
    stream_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=1,
        le=2**30,
        description="Largest body of a request whose answer is a stream; a larger one is answered 413.",
    )
    stream_images: int = Field(
        default=10_000,
        ge=1,
        le=10**7,
        description="Images in one request whose answer is a stream; more are answered 413.",
    )
    held_stream_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=1,
        le=2**40,
        validate_default=True,
        description="Bytes of such bodies held at once in the whole process; more are answered 503.",
    )
    held_body_bytes: int = Field(
        default=128 * 1024 * 1024,
        ge=1,
        le=2**40,
        validate_default=True,
        description="Bytes of request bodies held at once in the whole process; more are answered 503.",
    )
    decoding_pixels: int = Field(
        default=16_000_000,
        ge=1,
        le=10**12,
        validate_default=True,
        description="Pixels being decoded at once in the whole process, at about 20 bytes each; more are answered 503.",
    )
    max_answer_pixels: int = Field(
        default=16_000_000, ge=1, le=10**9, description="Pixels of a PNG that goes out; more are answered 422."
    )
    max_num_samples: int = Field(
        default=100_000, ge=1, le=10**9, description="Importance samples an image; more are answered 422."
    )

    cache_url: str = Field(
        default="memory://",
        description="Where answers are cached: `memory://`, `redis://host:port/db`, `rediss://` or `unix://path`.",
    )
    cache_ttl_seconds: int = Field(default=3600, ge=1, le=MAX_SECONDS, description="How long a cached answer lives.")
    cache_memory_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=0,
        le=2**40,
        description="Size of the `memory://` cache; the longest unused answers leave first.",
    )
    cache_timeout_seconds: float = Field(
        default=0.25,
        gt=0,
        le=600,
        description="Redis timeout; on expiry the request is served without the cache.",
    )
    cache_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Secret that all replicas share: only values written with it are taken from Redis. Without it "
        "values have a checksum, which protects them from damage but not from somebody who can write to Redis.",
    )

    api_keys: SecretStr = Field(
        default=SecretStr(""),
        description="Comma-separated keys, one of which must come in `X-API-Key`, else 401; empty lets everyone in.",
    )
    cors_origins: str = Field(
        default="",
        description="Comma-separated origins, such as `https://example.org`, whose pages may call the service from a "
        "browser; `*` allows all, empty none.",
    )
    admin_keys: SecretStr = Field(
        default=SecretStr(""),
        description="Comma-separated keys, one of which must come in `X-API-Key` to reload the models, else 403; empty "
        "lets nobody.",
    )
    rate_limit: str = Field(
        default="",
        description="Requests a client may make, such as `100/minute`, else 429; empty sets no limit. Replicas that "
        "share a Redis share the count.",
    )
    key_failure_limit: str = Field(
        default="30/minute",
        description="Requests without a valid key that an address may make where keys are set, else 429; empty sets "
        "no limit.",
    )
    otlp_endpoint: str = Field(
        default="",
        description="Address of an OpenTelemetry collector, such as `http://localhost:4318`, that gets a trace of each "
        "request by OTLP over HTTP; empty traces nothing. Needs the extra `otel`.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line to print."
    )

    def api_key_list(self) -> list[str]:
        """The keys that open the service; none means that it is open to everyone."""
        return _keys(self.api_keys)

    def admin_key_list(self) -> list[str]:
        """The keys that may reload the models; none means that nobody may."""
        return _keys(self.admin_keys)

    def cors_origin_list(self) -> list[str]:
        """Origins whose pages may call the service from a browser."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]

    @property
    def mirror(self) -> Mirror | None:
        """The copy of a store that lies elsewhere; None if the store is a folder."""
        return Mirror(self.model_store, self.model_cache.expanduser()) if is_remote(self.model_store) else None

    @property
    def store_folder(self) -> Path:
        """The folder of checkpoints, or of their copies."""
        return Path(self.model_store) if self.mirror is None else self.mirror.folder

    def model_names(self) -> list[str]:
        """Models to load, `name` or `name@version`; none means all."""
        return [name.strip() for name in self.models.split(",") if name.strip()]

    def worker_counts(self) -> dict[str, int]:
        """Processes of each lane: most of the work is heavy, and light work needs a quarter of the CPUs at most."""
        cpus = available_cpus()
        return {"light": min(MAX_LIGHT_WORKERS, max(1, cpus // 4)), "heavy": self.workers or cpus}

    def image_format_list(self) -> list[str]:
        """The formats of images that are accepted."""
        return [name.strip() for name in self.image_formats.split(",")]

    @field_validator("image_formats")
    @classmethod
    def _check_image_formats(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",")]
        if not set(names) <= set(FORMATS):
            raise ValueError(f"must be formats out of {', '.join(FORMATS)}, separated by commas, not {value!r}")
        return value

    @field_validator("held_body_bytes", "held_stream_bytes", "decoding_pixels")
    @classmethod
    def _check_room_for_one(cls, value: int, info: ValidationInfo) -> int:
        # otherwise the largest allowed one would always be answered 503
        one = {
            "held_body_bytes": "max_body_bytes",
            "held_stream_bytes": "stream_bytes",
            "decoding_pixels": "max_image_pixels",
        }[str(info.field_name)]
        if value < info.data.get(one, 0):
            raise ValueError(f"is {value}, which must be at least {PREFIX}{one.upper()}, {info.data[one]}")
        return value

    @field_validator("port", mode="before")
    @classmethod
    def _ignore_service_link(cls, value: Any) -> Any:
        linked = isinstance(value, str) and SERVICE_LINK.fullmatch(f"{PREFIX}PORT={value}")
        return cls.model_fields["port"].default if linked else value

    @field_validator("model_store", mode="before")
    @classmethod
    def _check_model_store(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @field_validator("default_model")
    @classmethod
    def _check_default_model(cls, value: str) -> str:
        if not re.fullmatch(f"{CHECKPOINT_NAME}(@{CHECKPOINT_NAME})?", value):
            raise ValueError(f"must be a model's `name` or `name@version`, not {value!r}")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_cors_origins(cls, value: str) -> str:
        origins = [origin.strip() for origin in value.split(",") if origin.strip()]
        if origins != ["*"] and not all(re.fullmatch(r"https?://[A-Za-z0-9.\[\]:_-]+", origin) for origin in origins):
            raise ValueError(f"must be * or origins such as https://example.org, without a path, not {value!r}")
        return value

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value, re.ASCII):
            raise ValueError(f"must be auto, cpu, cuda or cuda:N, not {value!r}")
        return value  # whether it is there, the process that loads the models finds out

    @field_validator("models")
    @classmethod
    def _check_models(cls, value: str, info: ValidationInfo) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if not all(re.fullmatch(f"{CHECKPOINT_NAME}(@{CHECKPOINT_NAME})?", name) for name in names):
            raise ValueError(f"must be models, `name` or `name@version`, separated by commas, not {value!r}")
        default = str(info.data.get("default_model", ""))
        if names and not any(_includes(name, default) for name in names):
            raise ValueError(f"leaves out {PREFIX}DEFAULT_MODEL, {default}")
        return value

    @field_validator("cache_url")
    @classmethod
    def _check_cache_url(cls, value: str) -> str:
        # the messages leave the address out: it may carry a password
        if value == "memory://":
            return value
        scheme = value.partition("://")[0]
        if scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must be memory://, redis://host:port/db, rediss://host:port/db or unix://path")
        try:
            if scheme != "unix" and not re.fullmatch(r"(/\d*)?", RedisDsn(value).path or ""):
                raise ValueError("the database is not a number")
            # builds a connection without opening it, so that a misspelt option is found now and not at each request
            pool = ConnectionPool.from_url(value)
            pool.make_connection()  # type: ignore[no-untyped-call]
            if pool.connection_kwargs.get("decode_responses"):
                raise ValueError("decode_responses cannot be set, since cached values are bytes")
        except ValidationError as error:
            raise ValueError(f"is not an address of Redis: {error.errors()[0]['msg']}") from None
        except (TypeError, ValueError) as error:
            raise ValueError(f"is not an address of Redis: {error}") from None
        return value

    @field_validator("api_keys", "admin_keys")
    @classmethod
    def _check_api_keys(cls, value: SecretStr) -> SecretStr:
        keys = [key.strip() for key in value.get_secret_value().split(",")]
        if keys != [""] and not all(key.isascii() and key.isprintable() and key for key in keys):
            raise ValueError("must be keys of printable ASCII, separated by commas, none of them empty")
        return value

    def trusted_proxy_list(self) -> list[str]:
        """Addresses and networks of trusted proxies."""
        return [part.strip() for part in self.trusted_proxies.split(",") if part.strip()]

    @field_validator("trusted_proxies")
    @classmethod
    def _check_trusted_proxies(cls, value: str) -> str:
        for part in filter(None, (part.strip() for part in value.split(","))):
            try:
                ip_network(part)
            except ValueError as error:
                raise ValueError(
                    f"must be addresses or networks such as 10.0.0.0/8, separated by commas: {error}"
                ) from None
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_otlp_endpoint(cls, value: str) -> str:
        if not value:
            return value
        if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
            raise ValueError("must be an address such as http://localhost:4318")  # which may carry a password
        if not is_installed():
            raise ValueError("needs packages that are not installed: pip install 'vampprior[otel]'")
        return value

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        if value and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
            raise ValueError(f"must be a path such as /models, without a slash at the end, not {value!r}")
        return value

    @field_validator("rate_limit", "key_failure_limit")
    @classmethod
    def _check_rate_limit(cls, value: str) -> str:
        if not value:
            return value
        try:
            (limit,) = parse_many(value)
        except ValueError:
            limit = None
        if limit is None or not 1 <= limit.amount <= 10**9 or not 1 <= limit.get_expiry() <= MAX_SECONDS:
            raise ValueError(f"must be one limit such as 100/minute or 5 per 10 seconds, not {value!r}")
        return value


def load_settings(**overrides: Any) -> Settings:
    """Read the environment, and check that the model store and the default model are there.

    `overrides` are settings that win over the environment.

    Raises `SettingsError` with one line that names every bad or unknown variable.
    """
    problems = _unknown_variables()
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            name = PREFIX + "_".join(str(part) for part in item["loc"]).upper()
            problems.append(f"{name} {item['msg'].removeprefix('Value error, ')}")
    if not problems and settings.mirror is None:
        try:
            start_thread(check_store, settings.store_folder, settings.default_model).result(STORE_CHECK_SECONDS)
        except StoreError as error:
            problems.append(str(error))
        except TimeoutError:
            pass  # `ModelStore` goes on waiting, and `/health/ready` says so
    if problems:
        raise SettingsError(" ".join(f"Bad setting: {'; '.join(problems)}".split()))
    return settings


def ignored_variables() -> list[str]:
    """Names of `VAMP_*` variables that Kubernetes or Docker set to announce a service; they are no settings of ours."""
    return sorted(name for name, value in os.environ.items() if SERVICE_LINK.fullmatch(f"{name}={value}"))


def _unknown_variables() -> list[str]:
    """An error message for each `VAMP_*` variable that no setting has; pydantic-settings ignores them."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    given = {name for name in os.environ if name.upper().startswith(PREFIX)}
    problems = []
    for name in sorted(given.difference(ignored_variables())):
        if name.upper() in known | TRAINING_VARIABLES:
            continue
        if name.upper() in RENAMED:
            problems.append(f"{name} is now {RENAMED[name.upper()]}")
            continue
        nearest = difflib.get_close_matches(name.upper(), known, n=1)
        problems.append(f"{name} is not a setting" + (f", did you mean {nearest[0]}?" if nearest else ""))
    return problems


def _keys(secret: SecretStr) -> list[str]:
    return [key.strip() for key in secret.get_secret_value().split(",") if key.strip()]


def _includes(wanted: str, default: str) -> bool:
    """Whether loading `wanted` loads the default model, each a `name` or `name@version`."""
    name, _, version = wanted.partition("@")
    default_name, _, default_version = default.partition("@")
    return name == default_name and (not version or not default_version or version == default_version)
