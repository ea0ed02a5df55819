"""Settings from `VAMP_*` environment variables, each with what it bounds and the status a client sees."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, RedisDsn, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings"]


class Settings(BaseSettings):
    """Everything an operator can set. An unknown `VAMP_*` variable or a bad value stops the start."""

    model_config = SettingsConfigDict(env_prefix="VAMP_", frozen=True, extra="forbid")

    model_store: Path = Field(Path("model_store"), description="Folder of checkpoints, `<name>/<version>/`.")
    default_model: str = Field(
        "static_mnist-hvae-vampprior", description="Model that answers when a request names none, `name` or `name@version`."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    device: str = Field("auto", description="Where models compute: `auto`, `cpu`, `cuda` or `cuda:N`.")
    threads: int = Field(0, ge=0, description="Compute threads of a model; 0 takes the CPUs this process may use.")

    queue_length: int = Field(256, ge=1, description="Jobs that may wait for one model; one more is answered 503.")
    queued_rows: int = Field(
        2_000_000, ge=1, description="Network rows (images times samples) that may wait for one model; more is answered 503."
    )
    deadline_seconds: float = Field(
        60.0, gt=0, description="Longest wait plus computation of a request; past it the answer is 504."
    )
    shutdown_seconds: float = Field(
        10.0, ge=0, description="Time that requests under way get to finish once the service is told to stop."
    )

    max_body_bytes: int = Field(16 * 1024 * 1024, ge=1, description="Largest request body; a larger one is answered 413.")
    max_images: int = Field(64, ge=1, description="Images in one request; more are answered 413.")
    max_image_pixels: int = Field(
        4_000_000, ge=1, description="Pixels of one uploaded image before resizing; more are answered 413."
    )
    max_num_samples: int = Field(100_000, ge=1, description="Importance samples an image; more are answered 422.")

    cache_url: str = Field("memory://", description="Where answers are cached: `memory://` or `redis://host:port/db`.")
    cache_ttl_seconds: int = Field(3600, ge=1, description="How long a cached answer lives.")
    cache_memory_bytes: int = Field(64 * 1024 * 1024, ge=0, description="Size of the `memory://` cache; the oldest answers leave first.")
    cache_timeout_seconds: float = Field(
        0.25, gt=0, description="Longest wait for Redis; past it the cache is skipped, which no client notices but in time."
    )

    api_keys: SecretStr = Field(
        SecretStr(""), description="Comma-separated keys, one of which must come in `X-API-Key`, else 401; empty lets everyone in."
    )
    rate_limit: str = Field(
        "", description="Requests a client may make, such as `100/minute`, else 429; empty sets no limit."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log line to print.")

    @field_validator("cache_url")
    @classmethod
    def _check_cache_url(cls, value: str) -> str:
        if value != "memory://":
            RedisDsn(value)
        return value
