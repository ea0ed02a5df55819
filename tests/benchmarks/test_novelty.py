"""AUROC, its intervals, and who wins."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.machine import ROOT
from benchmarks.novelty.comparison import RESAMPLES, auroc_resamples, compare, verdict
from benchmarks.novelty.detectors import Judgement, LogLikelihoodDetector, NoveltyDetector, OfPyOD
from training.data import load_dataset
from vampprior.novelty import conformal_p_values


class Brightness:
    """Takes bright images for new, with p-values from known levels."""

    def __init__(self, sign=1.0):
        self.sign = sign

    def judge(self, images):
        scores = self.sign * images.mean((1, 2))
        return Judgement(scores, conformal_p_values(np.sort(self.sign * np.arange(0.0, 100.0)), scores))


class MeanDistance:
    """The interface of PyOD's detectors."""

    def fit(self, rows):
        self.mean = rows.mean(0)

    def decision_function(self, rows):
        return np.abs(rows - self.mean).sum(1)


def flat(levels):
    return np.array(levels, np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)


def test_the_area_is_that_of_scikit_learn_in_every_resample():
    random = np.random.default_rng(0)
    known, novel = random.integers(0, 9, 30).astype(float), random.integers(3, 12, 20).astype(float)
    weights = random.integers(0, 3, (4, 30)).astype(float), random.integers(0, 3, (4, 20)).astype(float)
    labels = np.r_[np.zeros(30), np.ones(20)]
    expected = [
        roc_auc_score(labels, np.r_[known, novel], sample_weight=np.r_[one, other])
        for one, other in zip(*weights, strict=True)
    ]
    np.testing.assert_allclose(auroc_resamples(known, novel, *weights), expected)


def test_a_comparison_says_what_is_missed_and_what_is_called_new():
    known, sets = flat(range(0, 100, 2)), {"bright": flat(range(90, 190, 2)), "same": flat(range(0, 100, 2))}
    found = compare({"ours": Brightness(), "dark": Brightness(-1)}, known, sets, np.random.default_rng(0))
    assert found.auroc["ours"]["same"][0] == pytest.approx(0.5)
    assert found.auroc["ours"]["bright"][0] == pytest.approx(1 - found.auroc["dark"]["bright"][0])
    assert found.auroc["ours"]["bright"].shape == (1 + RESAMPLES,)
    assert found.missed["ours"] == {"bright": 0.06, "same": 0.96}
    assert found.called_new["ours"] == pytest.approx(0.04)
    lines = found.lines()
    assert [line[0] for line in lines] == ["bright", "same", "**mean**", "test images called new"]
    assert {len(line) for line in lines} == {len(found.header())}
    assert lines[0][-1].startswith("ours wins by 0.9")
    assert lines[1][-1] == "no clear difference from dark"


def test_the_interval_of_an_area_is_as_wide_as_theory_says():
    """The standard error of Hanley and McNeil (1982) for an area of one half with 100 images on each side."""
    levels = np.random.default_rng(1).permutation(200)
    known, novel = flat(levels[:100]), {"novel": flat(levels[100:])}
    areas = compare({"ours": Brightness()}, known, novel, np.random.default_rng(0)).auroc["ours"]["novel"]
    assert areas[1:].std() == pytest.approx(np.sqrt(201 / (12 * 100 * 100)), rel=0.15)
    assert areas[1:].mean() == pytest.approx(areas[0], abs=0.01)


def test_another_detector_wins_only_outside_of_the_error():
    spread = np.linspace(-0.02, 0.02, 1001)
    ours = np.r_[0.9, 0.9 + spread]
    assert verdict({"ours": ours, "KNN": ours + 0.01, "PCA": ours - 0.1}) == "**KNN wins** by 0.010"
    assert verdict({"ours": ours, "KNN": ours + 1e-4}) == "**KNN wins** by less than 0.001"
    assert verdict({"ours": ours, "KNN": np.r_[0.91, 0.91 - spread]}) == "no clear difference from KNN"
    assert verdict({"ours": ours, "KNN": ours - 0.01}) == "ours wins by 0.010"
    assert verdict({"ours": ours, "KNN": ours}) == "no clear difference from KNN"


def test_a_detector_of_pyod_is_fitted_to_the_training_images_and_calibrated_on_the_others():
    detector = OfPyOD(MeanDistance(), flat([0, 100]), flat([60, 80, 51]))
    judged = detector.judge(flat([51, 255, 65]))
    np.testing.assert_allclose(judged.scores, 4 * np.array([1, 205, 15]) / 255, rtol=1e-5)
    assert judged.p_values.tolist() == [1.0, 0.25, 0.5]


def test_a_score_that_is_not_finite_is_an_error():
    class Infinite(MeanDistance):
        def decision_function(self, rows):
            return np.full(len(rows), np.inf)

    with pytest.raises(FloatingPointError, match="a score of Infinite is not finite"):
        OfPyOD(Infinite(), flat([0, 100]), flat([60])).judge(flat([51]))


def test_our_detectors_answer_as_the_service():
    folder = ROOT / "model_store" / "digits-hvae-vampprior" / "1"
    images = load_dataset("digits").gray("test")[:3, 0]
    novelty, log_likelihood = NoveltyDetector(folder, seed=0), LogLikelihoodDetector(folder, seed=0)
    decisions = novelty._decide(images)
    assert novelty.judge(images).p_values.tolist() == [decision.p_value for decision in decisions]
    judged = log_likelihood.judge(images)
    assert judged.scores.tolist() == [-decision.statistics["log_likelihood"].value for decision in decisions]
    assert (novelty.judge(255 - images).p_values < 0.05).all()
