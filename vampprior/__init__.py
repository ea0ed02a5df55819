"""Hierarchical VAEs with a VampPrior (Tomczak & Welling, 2018) in PyTorch.

Names are imported on first use, so that `vampprior.config` and `vampprior.card` can be used without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vampprior.card import Card, CheckpointError, read_card, write_card
    from vampprior.checkpoint import load_checkpoint, save_checkpoint
    from vampprior.config import ModelConfig
    from vampprior.distributions import DiagonalNormal, Mixture
    from vampprior.importance import LogLikelihood, log_likelihood
    from vampprior.latent_model import Bound, LatentModel
    from vampprior.likelihoods import LIKELIHOODS, Likelihood
    from vampprior.models import MODELS, build_model
    from vampprior.preparation import Preparation
    from vampprior.priors import PRIORS, Prior

__all__ = [
    "LIKELIHOODS",
    "MODELS",
    "PRIORS",
    "Bound",
    "Card",
    "CheckpointError",
    "DiagonalNormal",
    "LatentModel",
    "Likelihood",
    "LogLikelihood",
    "Mixture",
    "ModelConfig",
    "Preparation",
    "Prior",
    "build_model",
    "load_checkpoint",
    "log_likelihood",
    "read_card",
    "save_checkpoint",
    "write_card",
]

_MODULES = {
    "card": ("Card", "CheckpointError", "read_card", "write_card"),
    "checkpoint": ("load_checkpoint", "save_checkpoint"),
    "config": ("ModelConfig",),
    "distributions": ("DiagonalNormal", "Mixture"),
    "importance": ("LogLikelihood", "log_likelihood"),
    "latent_model": ("Bound", "LatentModel"),
    "likelihoods": ("LIKELIHOODS", "Likelihood"),
    "models": ("MODELS", "build_model"),
    "preparation": ("Preparation",),
    "priors": ("PRIORS", "Prior"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module that defines a public name (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
