"""Pseudo-inputs of a training: the images that they start from, and whether they look like noise at its end."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.losses import Wake
from training.recipe import PseudoInputs, RecipeError
from vampprior.latent_model import LatentModel
from vampprior.statistics import total_variation

__all__ = ["init_pseudo_inputs", "look_like_noise", "roughness"]

WHITE_NOISE = 2 / math.sqrt(math.pi)
"""Roughness of white noise."""
RESEMBLANCE, COMPONENTS = 0.5, 200
"""Mean correlation with the decoded components above which pseudo-inputs are no noise, and how many are compared."""
KMEANS_SIDE = 16
"""Images are averaged to at most this many pixels a side before k-means++ compares them."""
BATCH = 500
"""Images that are averaged at once."""


def init_pseudo_inputs(model: LatentModel, settings: PseudoInputs, wake: Wake, seed: int) -> None:
    """Set the pseudo-inputs of a model, if its prior has any, to noise or to training images.

    wake: the training images
    seed: seed of k-means++ and of the pixels of dynamic images; other choices come from torch's global generator

    Raises `RecipeError` if there are fewer training images than pseudo-inputs that start from them.
    """
    prior = model.prior
    if prior.pseudo_inputs is None:
        return
    noise = torch.empty_like(prior.pseudo_inputs).normal_()
    if prior.learns_pseudo_inputs and settings.start == "noise":
        prior.init_pseudo_inputs(settings.mean + settings.std * noise)
        return
    number, num_images = len(noise), len(wake.images)
    if number > num_images:
        raise RecipeError(f"[model]: {number} pseudo-inputs need as many training images; there are {num_images}")
    if settings.start == "kmeans":
        indices = kmeans_indices(wake.images, number, seed)
    else:
        indices = torch.randperm(num_images)[:number].to(wake.images.device)
    images = wake.view(indices, torch.Generator(wake.images.device).manual_seed(seed))
    prior.init_pseudo_inputs(images + settings.std * noise if prior.learns_pseudo_inputs else images)


def kmeans_indices(images: Tensor, number: int, seed: int) -> Tensor:
    """Indices of images far apart, drawn one after another by k-means++ (Arthur & Vassilvitskii, 2007).

    Images (N, C, H, W) are compared by their pixels, averaged to at most 16 a side.
    """
    try:
        from sklearn.cluster import kmeans_plusplus
    except ImportError as error:
        raise RecipeError("pseudo_inputs.start = 'kmeans' needs scikit-learn: pip install scikit-learn") from error
    height, width = images.shape[2:]
    size = min(height, KMEANS_SIDE), min(width, KMEANS_SIDE)
    small = torch.cat([F.adaptive_avg_pool2d(part.float(), size) for part in torch.split(images, BATCH)])
    _, indices = kmeans_plusplus(small.flatten(1).cpu().numpy(), number, random_state=seed)
    return torch.from_numpy(np.asarray(indices, np.int64)).to(images.device)


def look_like_noise(model: LatentModel, images: Tensor) -> bool:
    """True if the learned pseudo-inputs of a model look like noise, beside training images (N, C, H, W).

    They do if they are rougher than the middle between the training images and white noise, and if they hardly resemble
    the images to which their components are decoded: a mean correlation below 0.5. It is 0.17 to 0.42 for shipped
    models whose pseudo-inputs show nothing, and 0.53 to 0.94 for those whose pseudo-inputs show digits or faces.
    """
    pseudo_inputs = model.prior.pseudo_inputs
    if pseudo_inputs is None or not model.prior.learns_pseudo_inputs or model.autoregressive:
        return False
    pseudo_inputs = pseudo_inputs.detach()
    if roughness(pseudo_inputs) < (roughness(images) + WHITE_NOISE) / 2:
        return False
    number = min(len(pseudo_inputs), COMPONENTS)
    noise = pseudo_inputs.new_zeros(number, model.noise_dim)
    decoded = model.sample(component=torch.arange(number, device=noise.device), noise=noise)
    return float(_correlation(pseudo_inputs[:number], decoded).mean()) < RESEMBLANCE


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of the pixels of two images, (N, C, H, W) twice to (N)."""
    first, second = (images.double().flatten(1) for images in (first, second))
    return F.cosine_similarity(first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True))


def roughness(images: Tensor) -> float:
    """Mean difference of neighbouring pixels of images (N, C, H, W), divided by the standard deviation within an image.

    Both are means over all images. White noise of any strength has 2 / sqrt(pi), photographs and drawings mostly less.
    """
    channels, height, width = images.shape[1:]
    neighbours = channels * ((height - 1) * width + height * (width - 1))
    difference = float(total_variation(images).mean()) / max(neighbours, 1)
    deviation = float(images.double().flatten(2).std(dim=2, correction=0).mean())
    return difference / max(deviation, 1e-6)
