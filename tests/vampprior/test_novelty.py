"""Scores, p-values and decisions on small cases computed by hand, and on synthetic images of known distribution."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from vampprior.calibration import Calibration
from vampprior.novelty import (
    Coefficients,
    Statistics,
    benjamini_hochberg,
    conformal_p_values,
    cross_fit,
    fit_coefficients,
)

LINE = Coefficients(-2.0, -10.0, 5.0, 20.0, 1.0, 4.0, 6.0, 2.0)


def synthetic(num_images: int, seed: int, shift: float = 0.0) -> Statistics:
    """Images whose ELBO falls with their complexity; `shift` makes their KL larger and their ELBO lower."""
    random = np.random.default_rng(seed)
    complexity = random.uniform(50.0, 150.0, num_images)
    z2, z1 = random.gamma(20.0, 1.0, num_images) + shift, random.gamma(8.0, 1.0, num_images)
    reconstruction = -0.5 * complexity + random.normal(0.0, 5.0, num_images)
    elbo = reconstruction - z2 - z1
    return Statistics(elbo, reconstruction, elbo + 3.0, complexity, {"z2": z2, "z1": z1})


def calibrated(num_images: int, seed: int = 0) -> Calibration:
    return Calibration.of(synthetic(num_images, seed), name="default", weights_sha256="")


def one_image(elbo: float, total_variation: float, kl: float) -> Statistics:
    column = np.ones(1)
    return Statistics(column * elbo, column * (elbo + kl), column * elbo, column * total_variation, {"z1": column * kl})


def test_p_values_count_calibration_scores_that_are_at_least_as_high() -> None:
    calibration = np.array([1.0, 2.0, 2.0, 5.0])
    found = conformal_p_values(calibration, np.array([0.0, 1.0, 1.5, 2.0, 5.0, 5.1, np.inf, np.nan]))
    np.testing.assert_array_equal(found, np.array([5, 5, 4, 4, 2, 1, 1, 1]) / 5)


def test_benjamini_hochberg_on_the_example_of_its_paper() -> None:
    """The 15 p-values of Benjamini & Hochberg (1995, Sec. 3.2): four hypotheses are rejected at 0.05."""
    p_values = np.array(
        [
            0.0001,
            0.0004,
            0.0019,
            0.0095,
            0.0201,
            0.0278,
            0.0298,
            0.0344,
            0.0459,
            0.324,
            0.4262,
            0.5719,
            0.6528,
            0.759,
            1,
        ]
    )
    order = np.random.default_rng(0).permutation(15)
    np.testing.assert_array_equal(benjamini_hochberg(p_values[order], 0.05), order < 4)


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([], []),
        ([0.2, 0.3], [False, False]),
        ([0.05, 0.1], [True, True]),  # the greater one meets its bound, so both are rejected
        ([0.06, 0.06, 0.5], [True, True, False]),
        ([0.04, 0.5], [True, False]),
    ],
)
def test_benjamini_hochberg_steps_up(p_values: list[float], expected: list[bool]) -> None:
    assert benjamini_hochberg(np.array(p_values), 0.1).tolist() == expected


@pytest.mark.parametrize("fdr", [0.0, 1.0, -0.1, float("nan")])
def test_a_false_discovery_rate_must_be_a_share(fdr: float) -> None:
    with pytest.raises(ValueError, match="fdr must be between 0 and 1"):
        benjamini_hochberg(np.array([0.1]), fdr)


@pytest.mark.parametrize(
    ("elbo", "total_variation", "kl", "surprise", "parts"),
    [
        (-40.0, 10.0, 6.0, 10.0, (2.25, 0.0)),  # predicted: -10 - 2 * 10 = -30; (10 - 1) / 4; (6 - 6) / 2
        (-40.0, 10.0, 12.0, 10.0, (2.25, 3.0)),
        (-19.0, 0.0, 4.0, -1.0, (-0.5, -1.0)),  # the total variation is clipped to 5
        (-60.0, 99.0, 0.0, 10.0, (2.25, -3.0)),  # the total variation is clipped to 20
    ],
)
def test_a_score_by_hand(
    elbo: float, total_variation: float, kl: float, surprise: float, parts: tuple[float, float]
) -> None:
    statistics = one_image(elbo, total_variation, kl)
    assert LINE.surprise(statistics).tolist() == [surprise]
    assert [part.item() for part in LINE.standardized(statistics).values()] == list(parts)
    score = 0.5 * np.log(np.exp(2 * parts[0]) + np.exp(2 * parts[1]))
    assert LINE.score(statistics)[0] == pytest.approx(score)


def test_the_score_of_a_very_unusual_image_is_finite() -> None:
    assert LINE.score(one_image(-1e6, 10.0, 1e6))[0] == pytest.approx(5e5, rel=1e-3)


def test_coefficients_are_the_line_of_least_squares_and_robust_scales() -> None:
    statistics = synthetic(400, seed=1)
    fitted = fit_coefficients(statistics)
    slope, intercept = np.polyfit(statistics.total_variation, statistics.elbo, 1)
    assert fitted.slope == pytest.approx(slope)
    assert fitted.intercept == pytest.approx(intercept)
    for part in fitted.standardized(statistics).values():
        np.testing.assert_allclose(np.quantile(part, [0.5, 0.95]), [0.0, 1.0], atol=1e-9)


def test_complexity_counts_only_where_the_elbo_falls_with_it() -> None:
    statistics = synthetic(400, seed=1)
    unrelated = Statistics(
        statistics.elbo,
        statistics.reconstruction,
        statistics.log_likelihood,
        np.random.default_rng(2).uniform(0.0, 1.0, 400),
        statistics.kl,
    )
    fitted = fit_coefficients(unrelated)
    assert fitted.slope == 0.0
    assert fitted.intercept == pytest.approx(statistics.elbo.mean())


def test_constant_statistics_can_be_fitted() -> None:
    column = np.ones(30)
    fitted = fit_coefficients(Statistics(column, column, column, column, {"z1": column}))
    assert np.isfinite(fitted).all()


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_statistics_that_are_not_finite_are_refused(value: float) -> None:
    statistics = synthetic(30, seed=1)
    statistics.elbo[7] = value
    with pytest.raises(ValueError, match="not finite"):
        fit_coefficients(statistics)


def test_no_image_influences_its_own_cross_fitted_score() -> None:
    """With a fold per image, each is scored by coefficients fitted to all the others."""
    statistics = synthetic(40, seed=3)
    statistics.elbo[0] -= 1e4  # an outlier that bends any line it is fitted by
    found = cross_fit(statistics, num_folds=40)
    others = fit_coefficients(statistics[1:])
    assert found.score[0] == pytest.approx(others.score(statistics[:1])[0])
    assert found.surprise[0] == pytest.approx(others.surprise(statistics[:1])[0])
    # coefficients that have seen the outlier find it less unusual
    assert found.score[0] > 1.5 * fit_coefficients(statistics).score(statistics[:1])[0]


def test_every_image_is_scored_by_the_other_four_folds() -> None:
    statistics = synthetic(103, seed=3)
    found = cross_fit(statistics, seed=5)
    folds = np.array_split(np.random.default_rng(5).permutation(103), 5)
    for held_out in folds:
        others = np.setdiff1d(np.arange(103), held_out)
        expected = fit_coefficients(statistics[others]).score(statistics[held_out])
        np.testing.assert_allclose(found.score[held_out], expected)


def test_known_images_are_called_new_at_the_promised_rate() -> None:
    """Over 40 calibrations of 200 images each, p <= a has a probability close to a for known images."""
    flagged = [
        [decision.p_value for decision in calibrated(200, seed).decide(synthetic(250, 1000 + seed))]
        for seed in range(40)
    ]
    p_values = np.array(flagged)
    for rate in (0.01, 0.05, 0.2):
        # a calibration of 200 images moves the rate by sqrt(a (1 - a) / 200)
        tolerance = 4 * np.sqrt(rate * (1 - rate) * (1 / 200 + 1 / 250) / 40)
        assert (p_values <= rate).mean() == pytest.approx(rate, abs=tolerance)


def test_shifted_images_are_found() -> None:
    decisions = calibrated(500).decide(synthetic(100, seed=9, shift=40.0), false_alarm_rate=0.05)
    assert np.mean([decision.novel for decision in decisions]) > 0.95
    assert all(decision.sentence.startswith("This image is new to the model: ") for decision in decisions[:5])
    assert max(decision.statistics["kl_z2"].p_value for decision in decisions) < 0.05
    assert np.mean([decision.statistics["kl_z1"].p_value < 0.05 for decision in decisions]) < 0.2


def test_low_likelihoods_and_high_kl_have_low_p_values() -> None:
    calibration = calibrated(99)
    low, high = (
        one[0].statistics
        for one in (
            calibration.decide(Statistics(*[np.full(1, -1e6)] * 4, {"z2": np.zeros(1), "z1": np.zeros(1)})),
            calibration.decide(Statistics(*[np.full(1, 1e6)] * 4, {"z2": np.full(1, 1e6), "z1": np.full(1, 1e6)})),
        )
    )
    for name in ("elbo", "reconstruction", "log_likelihood"):
        assert (low[name].p_value, high[name].p_value) == (0.01, 1.0)
    for name in ("kl", "kl_z1", "kl_z2"):
        assert (low[name].p_value, high[name].p_value) == (1.0, 0.01)


def test_the_default_rate_is_one_per_cent_or_the_smallest_p_value() -> None:
    new = synthetic(1, seed=9, shift=1e3)
    for num_images, rate in ((49, 0.02), (99, 0.01), (999, 0.01)):
        calibration = calibrated(num_images)
        (decision,) = calibration.decide(new)
        assert decision.false_alarm_rate == calibration.default_false_alarm_rate == rate
        assert decision.novel


def test_rates_that_cannot_be_kept_are_refused() -> None:
    calibration, image = calibrated(49), synthetic(1, seed=9)
    assert len(calibration.decide(image, false_alarm_rate=0.02)) == 1
    for rate in (0.019, 0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"at least 0.02, the smallest p-value that 49 calibration images"):
            calibration.decide(image, false_alarm_rate=rate)
    with pytest.raises(ValueError, match="either false_alarm_rate or fdr"):
        calibration.decide(image, false_alarm_rate=0.05, fdr=0.1)


def test_statistics_of_another_models_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="layers"):
        calibrated(49).decide(one_image(0.0, 0.0, 0.0))


def test_a_false_discovery_rate_decides_over_all_images_together() -> None:
    calibration = calibrated(999)
    images = Statistics.concatenate([synthetic(5, seed=9, shift=100.0), synthetic(15, seed=10)])
    together = calibration.decide(images, fdr=0.1)
    assert [decision.novel for decision in together[:5]] == [True] * 5
    p_values = np.array([decision.p_value for decision in together])
    assert [decision.novel for decision in together] == benjamini_hochberg(p_values, 0.1).tolist()
    assert (together[0].fdr, together[0].false_alarm_rate) == (0.1, None)
    alone = calibration.decide(images[19:], fdr=0.1)
    assert alone[0].p_value == together[19].p_value


def test_a_sentence_says_what_was_decided_and_why() -> None:
    calibration = calibrated(999)
    usual, new, hard = (
        decision.sentence
        for decision in (
            *calibration.decide(synthetic(1, seed=4)),
            *calibration.decide(synthetic(1, seed=4, shift=1e3)),
            *calibration.decide(
                Statistics(*[np.full(1, -500.0)] * 3, np.full(1, 60.0), {"z2": np.full(1, 20.0), "z1": np.full(1, 8.0)})
            ),
        )
    )
    assert usual.startswith("There is no clear sign that this image is new: ")
    assert "more than the false-alarm rate of 0.01)." in usual
    assert "none of the calibration images look at least as unusual (p = 0.001, at most" in new
    assert "mainly because its latent code has a KL of 10" in new
    assert "mainly because its ELBO is " in hard
    assert all(text.count(".") >= 1 and text.endswith(".") for text in (usual, new, hard))


def test_a_higher_score_never_has_a_higher_p_value() -> None:
    decisions = sorted(calibrated(99).decide(synthetic(200, seed=2)), key=lambda decision: decision.score)
    assert all(one.p_value >= other.p_value for one, other in pairwise(decisions))
