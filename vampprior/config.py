"""Architecture of a model: all that is needed to build it again. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["ModelConfig"]

OPTIONAL = ("depth", "width")
"""Settings that a card holds only where they differ from their defaults, so that older programs read other cards."""


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a model; two equal configs build the same network.

    Args:
        model: Kind of network, a key of `vampprior.MODELS`.
        prior: Prior over the top latent, a key of `vampprior.PRIORS`.
        likelihood: Distribution of a pixel, a key of `vampprior.LIKELIHOODS`.
        image_shape: Channels, height and width (C, H, W) of an image.
        z1_dim, z2_dim: Latent units of the bottom and of the top layer.
        hidden_dim: Units of a hidden layer.
        num_components: Components K of the prior; for a VampPrior, its pseudo-inputs.
        depth: Residual blocks per resolution, for residual networks.
        width: Channels at the finest resolution, for residual networks.

    Raises:
        ValueError: If a field has the wrong type or is out of range. Whether the three names exist is checked when the
            model is built.

    Example:
        >>> config = ModelConfig(model="vae", image_shape=(1, 8, 8))
        >>> config.num_pixels
        64
        >>> ModelConfig.from_dict(config.to_dict()) == config
        True
    """

    model: str = "hvae"
    prior: str = "vampprior"
    likelihood: str = "bernoulli"
    image_shape: tuple[int, int, int] = (1, 28, 28)
    z1_dim: int = 40
    z2_dim: int = 40
    hidden_dim: int = 300
    num_components: int = 500
    depth: int = 1
    width: int = 32

    def __post_init__(self) -> None:
        for name in ("model", "prior", "likelihood"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a name, not {getattr(self, name)!r}")
        shape = self.image_shape
        if not isinstance(shape, tuple) or len(shape) != 3 or not all(_is_size(side) for side in shape):
            raise ValueError(f"image_shape must be three positive whole numbers (C, H, W), not {shape!r}")
        for name in ("z1_dim", "z2_dim", "hidden_dim", "num_components", *OPTIONAL):
            if not _is_size(getattr(self, name)):
                raise ValueError(f"{name} must be a positive whole number, not {getattr(self, name)!r}")

    @property
    def num_pixels(self) -> int:
        """D, the number of values in an image."""
        channels, height, width = self.image_shape
        return channels * height * width

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build a config from plain values, as read from JSON or TOML; an unknown key raises `ValueError`."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            names = ", ".join(map(repr, unknown))
            raise ValueError(f"unknown model setting {names}; known are {', '.join(sorted(known))}")
        values = dict(values)
        if isinstance(values.get("image_shape"), list):
            values["image_shape"] = tuple(values["image_shape"])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` takes back; `depth` and `width` are left out where they have their defaults."""
        values = asdict(self) | {"image_shape": list(self.image_shape)}
        for field in fields(self):
            if field.name in OPTIONAL and values[field.name] == field.default:
                del values[field.name]
        return values


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
