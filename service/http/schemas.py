"""JSON that the service takes and gives; field descriptions are the API's documentation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

__all__ = [
    "EXAMPLE_PNG",
    "CalibrationAnswer",
    "CardAnswer",
    "EncodeAnswer",
    "EncodedImage",
    "Health",
    "ImagesAnswer",
    "LatentMapAnswer",
    "LogLikelihoodAnswer",
    "ModelList",
    "ModelSummary",
    "NoveltyAnswer",
    "PathAnswer",
    "PseudoInputList",
    "ScoredImage",
]

EXAMPLE_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAABwAAAAcAQAAAABaduI5AAAARUlEQVR42oXIsQmAQADF0Mc/PCztHMexXM9RrnQEERULQbAyRSDhl2LuGtOG"
    "cYNDHpVVXE3UBZXoCa8uYvg+RCjO/UlwA1qeDGHDZCOoAAAAAElFTkSuQmCC"
)
"""A handwritten seven of 28 x 28 pixels, so that a call can be tried without a file."""


class Answered(BaseModel):
    """What every answer names."""

    model: str = Field(description="Name of the model that answered.", examples=["static_mnist-hvae-vampprior"])
    model_version: str = Field(description="Its version.", examples=["1"])


class ImagesAnswer(Answered):
    """Images as numbers."""

    seed: int | None = Field(None, description="The seed that gives the same images again, where one was used.")
    shape: list[int] = Field(description="Number of images, channels, height, width.", examples=[[1, 1, 28, 28]])
    images: list[Any] = Field(description="Pixel values in [0, 1], nested as `shape` says.")


class ScoredImage(BaseModel):
    """How likely one image is under the model."""

    file: str = Field(description="Name of the uploaded file.")
    log_likelihood: float = Field(description="log p(x) in nats; higher is more likely.")
    standard_error: float | None = Field(
        description="Monte Carlo standard error of it, in nats; null where the estimate hangs on a single sample.",
    )
    bits_per_dim: float = Field(description="The same per pixel, in bits; lower is more likely.")
    elbo: float = Field(description="Evidence lower bound in nats, from the same samples.")
    num_samples: int = Field(description="Importance samples that were drawn.")
    effective_sample_size: float = Field(
        description="(sum w)^2 / sum w^2 of the importance weights, from 1 to `num_samples`; where it is small, the "
        "estimate depends on a few samples.",
    )
    pareto_k: float | None = Field(
        description="Pareto k-hat, the shape of the tail of the importance weights; null with fewer than 25 samples.",
    )
    reliability: Literal["good", "low"] = Field(
        description="Whether `standard_error` can be believed: `good` if `pareto_k` is below 0.7. Otherwise the "
        "estimate is probably too low, by more than its standard error; ask for more samples.",
    )
    converged: bool | None = Field(
        description="Whether `precision` was reached with a standard error that can be believed; null without one."
    )
    percentile: float | None = Field(
        description="Per cent of held-out images that are less likely by an estimate with as many samples, 0 to 100; "
        "null where such estimates are not known. A high one does not mean that the image is like them: a blank image "
        "may be more likely than every digit. `POST /novelty` answers that question.",
    )
    summary: str = Field(description="The score in words.")


class LogLikelihoodAnswer(Answered):
    """Log-likelihoods, one per uploaded image, in their order."""

    seed: int = Field(description="Seed of the importance samples.", examples=[0])
    num_samples: int = Field(description="Importance samples per image.", examples=[5000])
    results: list[ScoredImage]


class StatisticOfImage(BaseModel):
    """A statistic of one image."""

    value: float = Field(description="In nats.")
    p_value: float = Field(description="Share of calibration images for which it is at least as unusual.")


class PrototypeOfImage(BaseModel):
    """A prior component that explains an image."""

    index: int = Field(description="Number of the pseudo-input (of the component, for other mixtures).", examples=[42])
    log_prob: float = Field(description="Log-probability of the image given the component's mean, in nats.")


class NovelImage(BaseModel):
    """Whether one image is new to the model."""

    file: str = Field(description="Name of the uploaded file.")
    novel: bool = Field(description="Whether it is called new.")
    p_value: float = Field(
        description="Share of calibration images that look at least as unusual, at least 1 / (their number + 1). Of "
        "images like these, at most a share of p have a p-value of p or less.",
    )
    score: float = Field(
        description="Novelty score: about 0 for the median of known images and 1 for their 95th percentile.",
    )
    statistics: dict[str, StatisticOfImage] = Field(
        description="What the decision rests on: `elbo`, `reconstruction`, `log_likelihood`, `kl` in all and by layer, "
        "and `surprise`, the nats by which the ELBO is lower than is usual for an image as complex."
    )
    prototypes: list[PrototypeOfImage] = Field(description="Components that explain the image best, best first.")
    summary: str = Field(description="The decision in a sentence.")


class NoveltyAnswer(Answered):
    """Decisions, one per uploaded image, in their order."""

    seed: int = Field(description="Seed of the draws of the latents.", examples=[0])
    num_samples: int = Field(description="Draws of the latents per image.", examples=[16])
    calibration: str = Field(description="The known images that were compared with.", examples=["default"])
    num_calibration: int = Field(description="Their number.", examples=[10000])
    false_alarm_rate: float | None = Field(description="Share of known images that are called new.", examples=[0.01])
    fdr: float | None = Field(description="Share of known images among those called new, where that was asked for.")
    results: list[NovelImage]


class Normal(BaseModel):
    """A diagonal normal distribution."""

    mean: list[float]
    std: list[float] = Field(description="Standard deviations.")


class Responsibility(BaseModel):
    """A component of the prior and its share in an image."""

    index: int = Field(description="Number of the pseudo-input (of the component, for other mixtures).", examples=[42])
    probability: float = Field(description="p(k | z) at the posterior mean of the top latent.", examples=[0.93])


class EncodedImage(BaseModel):
    """Where one image lies in latent space."""

    file: str = Field(description="Name of the uploaded file.", examples=["digit.png"])
    posterior: dict[str, Normal] = Field(description="By layer, top first; lower layers given the top's mean.")
    components: list[Responsibility] = Field(description="Components most responsible for the image, greatest first.")


class EncodeAnswer(Answered):
    """Latent positions, one per uploaded image, in their order."""

    results: list[EncodedImage]


class PathAnswer(ImagesAnswer):
    """Images along a path, as numbers."""

    components: list[list[Responsibility]] = Field(
        description="Components most responsible for each image of the path, greatest first."
    )
    top: list[list[float]] = Field(description="Latent of the top layer for each image of the path.")


class Quantiles(BaseModel):
    """Quantiles of calibration images at the levels 0, 0.001, ..., 1."""

    score: list[float] = Field(description="Novelty scores.", min_length=1001, max_length=1001)
    log_likelihood: list[float] = Field(
        description="Log-likelihoods in nats, from `num_samples` samples each.", min_length=1001, max_length=1001
    )


class CalibrationAnswer(Answered):
    """How the statistics of the calibration images are distributed."""

    calibration: str = Field(description="Name of the calibration.", examples=["default"])
    num_images: int = Field(description="Number of its images.", examples=[10000])
    num_samples: int = Field(description="Draws of the latents per image.", examples=[16])
    quantiles: Quantiles


class LatentMapAnswer(Answered):
    """The top layer of latents in two dimensions, by principal component analysis of M units."""

    calibration: str = Field(description="Name of the calibration that the points are images of.", examples=["default"])
    layer: str = Field(description="The layer that is shown.", examples=["z2"])
    mean: list[float] = Field(description="Centre of the posterior means, M numbers.")
    components: list[list[float]] = Field(description="The two axes of the plane, M numbers each.")
    prototypes: list[list[float]] = Field(description="Position of each component of the prior, by its number.")
    points: list[list[float]] = Field(description="Positions of calibration images, at most 2,000.")
    labels: list[int] | None = Field(description="Labels of the points, -1 for none; null if none has one.")
    p_values: list[float] = Field(description="Novelty p-values of the points.")


class PseudoInput(BaseModel):
    """One component of the prior."""

    index: int = Field(examples=[42])
    weight: float = Field(description="Its weight in the prior; the weights sum to 1.", examples=[0.002])
    image: list[Any] | None = Field(None, description="Pixel values in [0, 1], nested as (C, H, W).")


class PseudoInputList(Answered):
    """A page of the gallery."""

    total: int = Field(description="How many there are.", examples=[500])
    offset: int
    kind: Literal["pseudo-inputs", "decoded components"] = Field(
        description="Learned images, or components decoded at their means (`view`)."
    )
    pseudo_inputs: list[PseudoInput]


class ArchitectureOfModel(BaseModel):
    """The network of a model."""

    model: str = Field(description="Kind of network.", examples=["hvae"])
    prior: str = Field(description="Prior of the top latent.", examples=["vampprior"])
    likelihood: str = Field(description="Distribution of a pixel.", examples=["bernoulli"])
    image_shape: list[int] = Field(description="Channels, height, width.", examples=[[1, 28, 28]])
    z1_dim: int = Field(description="Latent units of the bottom layer.", examples=[40])
    z2_dim: int = Field(description="Latent units of the top layer.", examples=[40])
    hidden_dim: int = Field(description="Units of a hidden layer.", examples=[300])
    num_components: int = Field(description="Components of the prior, such as pseudo-inputs.", examples=[500])


class CardAnswer(BaseModel):
    """The card of a checkpoint. It may hold more than is named here."""

    schema_version: int = Field(examples=[1])
    name: str = Field(examples=["static_mnist-hvae-vampprior"])
    version: str = Field(examples=["1"])
    model: ArchitectureOfModel
    dataset: dict[str, Any] = Field(description="Name, split sizes and hashes of the data.")
    training: dict[str, Any] = Field(description="Recipe, seed, epochs, wall-clock in seconds, device and versions.")
    metrics: dict[str, Any] = Field(
        description="Test log-likelihood with its standard error, ELBO, KL and reconstruction in nats, active latent "
        "units per layer, and the number of images scored; empty before evaluation."
    )
    log_likelihood_quantiles: dict[str, list[float]] = Field(description="In cards without scores of each test image.")
    weights_sha256: str = Field(description="Hash of the weights.")
    scores_sha256: str = Field("", description="Hash of the scores of the test images; empty if there are none.")
    calibrations: dict[str, str] = Field({}, description="Hash of each calibration by its name.")


class ModelSummary(BaseModel):
    """A checkpoint of the store."""

    name: str = Field(examples=["static_mnist-hvae-vampprior"])
    version: str = Field(examples=["1"])
    status: Literal["ready", "refused"]
    default: bool = Field(False, description="Whether it answers requests that name no model.")
    reason: str | None = Field(None, description="Why it was refused.")
    architecture: dict[str, Any] | None = Field(None, description="The network, as in the card.")
    preparation: dict[str, Any] | None = Field(
        None,
        description="Size, mode and fit to which images of any size are prepared; null if they must have the model's.",
        examples=[None],
    )
    dataset: str | None = Field(None, examples=["static_mnist"])
    log_likelihood: float | None = Field(None, description="Mean over its test set, in nats.", examples=[-83.2])


class ModelList(BaseModel):
    """What the store holds."""

    default: str = Field(description="The model that answers requests that name none.")
    loading: bool = Field(description="Whether checkpoints are still being loaded.")
    models: list[ModelSummary]


class Health(BaseModel):
    """Whether the service lives, or is ready for requests."""

    status: Literal["live", "ready"]
