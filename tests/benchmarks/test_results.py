"""Ratios, targets, and the pages that show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figures import FIGURES
from benchmarks.machine import Options
from benchmarks.measure import AtLeast, AtMost, Claim, Series, ratio, take_turns
from benchmarks.results import PAGE, render_page, stored_rows

README = Path(PAGE.parent / "README.md").read_text(encoding="utf-8")


def test_contestants_take_turns_and_the_first_turn_does_not_count():
    turns = []
    clock = iter(range(100))

    def contestant(name):
        def measure():
            turns.append(name)
            return float(next(clock))

        return measure

    series = take_turns({"a": contestant("a"), "b": contestant("b")}, rounds=2, unit="s")
    assert turns == ["a", "b"] * 3
    assert series["a"].values == [2.0, 4.0]
    assert series["b"].values == [3.0, 5.0]


def test_a_ratio_is_taken_round_by_round():
    above, below = Series("above", "s", [2.0, 30.0, 4.0]), Series("below", "s", [1.0, 10.0, 1.0])
    assert ratio("r", above, below).values == [2.0, 3.0, 4.0]
    assert ratio("r", above, below).median == 3.0


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [(AtLeast(2.5), 2.5, True), (AtLeast(2.5), 2.4, False), (AtMost(1.4), 1.4, True), (AtMost(1.4), 1.5, False)],
)
def test_a_claim_holds_if_its_median_meets_the_target(target, value, met):
    assert Claim(Series("v", "times", [0.0, value, 100.0]), target).met is met


def test_the_page_shows_the_stored_results():
    assert PAGE.read_text(encoding="utf-8") == render_page(stored_rows())


def test_every_figure_is_explained_and_every_result_is_a_figure_s():
    assert [name for name in FIGURES if f"`{name}`" not in README] == []
    assert [row["figure"] for row in stored_rows() if row["figure"] not in FIGURES] == []


def test_the_stored_results_say_where_they_come_from():
    for row in stored_rows():
        assert {"date", "commit", "processor", "cpus", "versions", "settings"} <= row.keys()
        assert {"seconds", "rounds", "threads"} <= row["settings"].keys()


def test_options_take_the_threads_of_the_machine():
    assert Options().threads >= 1
