"""Hierarchical VAEs with a VampPrior (Tomczak & Welling, 2018) in PyTorch: the models, and nothing around them."""

from vampprior.config import ModelConfig
from vampprior.distributions import LIKELIHOODS, DiagonalNormal, Likelihood, Mixture
from vampprior.likelihood import LogLikelihood, log_likelihood
from vampprior.models import MODELS, LatentModel, build_model
from vampprior.priors import PRIORS, Prior

__all__ = [
    "LIKELIHOODS",
    "MODELS",
    "PRIORS",
    "DiagonalNormal",
    "LatentModel",
    "Likelihood",
    "LogLikelihood",
    "Mixture",
    "ModelConfig",
    "Prior",
    "build_model",
    "log_likelihood",
]
