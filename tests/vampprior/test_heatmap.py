"""Prototypes and heat maps, of a model built by hand whose prototypes are two known drawings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vampprior import LIKELIHOODS, LatentModel
from vampprior.heatmap import Prototypes

BAR, BOX = torch.zeros(1, 12, 12), torch.zeros(1, 12, 12)
BAR[:, :, 4:8] = 1.0
BOX[:, 2:10, 2:10] = 1.0


def prototypes_of(*drawings: Tensor, likelihood: str = "bernoulli") -> Prototypes:
    """Prototypes that show these drawings, with some doubt about every pixel."""
    images = torch.stack(drawings).clamp(0.05, 0.95)
    logits = torch.logit(images.flatten(1))
    params = logits if likelihood == "bernoulli" else torch.cat([logits, torch.full_like(logits, -2.0)], dim=1)
    return Prototypes(images, params, LIKELIHOODS[likelihood])


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
@pytest.mark.parametrize("drawing", [BAR, BOX], ids=["bar", "box"])
def test_the_heat_map_is_hottest_inside_a_hole(drawing: Tensor, likelihood: str) -> None:
    damaged = drawing.clone()
    damaged[:, 4:8, 4:8] = 0.0
    x = LIKELIHOODS[likelihood].from_bytes(255 * torch.stack([damaged, drawing]))
    prototypes = prototypes_of(BAR, BOX, likelihood=likelihood)
    hole, whole = prototypes.heat_map(x)
    inside = torch.zeros(12, 12, dtype=torch.bool)
    inside[4:8, 4:8] = True
    assert inside.flatten()[hole.argmax()]
    assert hole[5:7, 5:7].min() > 2 * hole[~inside].max()
    assert whole.max() < 0.2
    shown = prototypes.contrast(x[:1])[0]
    assert (shown[:, 4:8, 4:8] > 0.8).all()  # the closest prototypes have ink there
    assert ((shown > 0.5) == (drawing > 0.5)).all()


def test_a_stroke_that_no_prototype_has_is_hot() -> None:
    x = BAR.clone()[None]
    x[:, :, 1, 9:12] = 1.0
    heat = prototypes_of(BAR, BOX).heat_map(x)[0]
    assert divmod(int(heat.argmax()), 12) in [(1, 10), (1, 11)]


def test_prototypes_are_ordered_by_the_log_probability_of_the_image() -> None:
    prototypes = prototypes_of(BOX, BAR, torch.zeros(1, 12, 12))
    best, others = prototypes.explain(torch.stack([BAR, torch.zeros(1, 12, 12)]))
    assert [one.component for one in best] == [1, 0, 2]
    expected = prototypes.likelihood.log_prob(BAR[None], prototypes.params[1:2]).item()
    assert best[0].log_prob == pytest.approx(expected)
    assert others[0].component == 2
    assert len(prototypes.explain(BAR[None], count=9)[0]) == 3
    assert prototypes.explain(torch.empty(0, 1, 12, 12)) == []


def test_prototypes_are_decoded_means_of_the_components(model: LatentModel, images: Tensor) -> None:
    if model.autoregressive and model.prior.pseudo_inputs is None:
        with pytest.raises(ValueError, match="has no prototypes"):
            Prototypes.of(model)
        return
    prototypes = Prototypes.of(model)
    heat = prototypes.heat_map(images)
    assert heat.shape == (3, *images.shape[-2:])
    assert ((heat >= 0) & (heat <= 1)).all()
    torch.testing.assert_close(heat[1:2], prototypes.heat_map(images[1:2]))
    if not model.autoregressive:
        noise = images.new_zeros(1, model.noise_dim)
        torch.testing.assert_close(prototypes.images[:1], model.sample(component=0, noise=noise))
    else:
        torch.testing.assert_close(prototypes.images, model.prior.pseudo_inputs)


def test_a_given_mixture_is_used(tiny_model: Callable[..., LatentModel]) -> None:
    model = tiny_model()
    mixture = model.prior_mixture()
    changed = mixture._replace(mean=mixture.mean.flip(0), log_var=mixture.log_var.flip(0))
    torch.testing.assert_close(Prototypes.of(model, changed).images, Prototypes.of(model).images.flip(0))
