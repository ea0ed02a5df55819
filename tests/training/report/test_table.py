from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from training.report.paper import BITS, NATS, TABLES

Command = Callable[..., Any]
PutCard = Callable[..., Any]
Row = dict[str, str]
GRAY: dict[str, Any] = {"likelihood": "logistic", "image_shape": (1, 28, 20)}


def nats(bits: float) -> float:
    """The log-likelihood of a Frey face that takes so many bits per dimension."""
    return -bits * 28 * 20 * math.log(2.0)


def read_markdown(text: str) -> dict[str, list[Row]]:
    """The tables of a page by their titles; asserts that they are tables in the eyes of Markdown."""
    tables = {}
    for block in text.split("\n## ")[1:]:
        title, blank, *lines = block.rstrip("\n").split("\n")
        assert blank == ""
        if lines[-1] == "":
            lines.pop()
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        assert all(line.startswith("|") and line.endswith("|") for line in lines)
        assert {len(row) for row in rows} == {len(rows[0])}
        assert set(rows[1]) == {"---"}
        tables[title] = [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
    return tables


@pytest.fixture
def tables(command: Command) -> Callable[[], dict[str, list[Row]]]:
    """The tables of the store, those of the paper by their numbers."""

    def read() -> dict[str, list[Row]]:
        answer = command("table", "--markdown")
        assert answer.code == 0, answer.err
        found = read_markdown(answer.out)
        return {re.sub(r"^Table (\d):.*", r"\1", title): rows for title, rows in found.items()}

    return read


Tables = Callable[[], dict[str, list[Row]]]


def find(rows: list[Row], data: str, model: str) -> Row:
    """The only row of that data set and model."""
    (row,) = [row for row in rows if (row["data set"], row["model"]) == (data, model)]
    return row


def run_rows(rows: list[Row]) -> list[Row]:
    """The rows that show a checkpoint."""
    return [row for row in rows if row["checkpoint"]]


def test_the_paper_has_as_many_rows_as_we_have() -> None:
    assert {table.number: len(table.rows) for table in TABLES} == {1: 48, 2: 12, 3: 10, 4: 7, 5: 6}
    assert all(row.cell is not None for row in TABLES[0].rows)
    others = [sum(row.cell is None for row in table.rows) for table in TABLES[1:]]
    assert others == [6, 6, 4, 3]


def test_the_vampprior_wins_all_cells_of_table_1_but_one() -> None:
    """As the paper says of its own numbers; none is in the wrong column, then."""
    rows = TABLES[0].rows
    losses = [
        (vampprior.data.title, vampprior.model)
        for standard, vampprior in zip(rows[::2], rows[1::2], strict=True)
        if vampprior.data.unit.higher_is_better != (vampprior.value > standard.value)
    ]
    assert losses == [("Caltech 101 Silhouettes", "PixelHVAE (L = 2) + VampPrior")]


def test_tables_2_to_5_repeat_the_numbers_of_table_1() -> None:
    """But for two that the paper itself gives twice, and differently."""
    first = {row.cell: row.value for row in TABLES[0].rows}
    differing = [
        row
        for table in TABLES[1:]
        for row in table.rows
        if row.cell is not None and row.value != first.get(row.cell, row.value)
    ]
    assert [(row.data.title, row.model, row.value) for row in differing] == [
        ("static MNIST", "HVAE (L = 2) + SG", -85.89),
        ("dynamic MNIST", "ConvHVAE (L = 2) + VampPrior", -79.78),
    ]


@pytest.mark.parametrize(
    ("dataset", "config", "numbers", "data", "model"),
    [
        ("static_mnist", {"model": "vae", "prior": "standard"}, "1", "static MNIST", "VAE (L = 1) + standard"),
        ("static_mnist", {}, "12", "static MNIST", "HVAE (L = 2) + VampPrior"),
        ("static_mnist", {"prior": "mog"}, "2", "static MNIST", "HVAE (L = 2) + MoG"),
        ("static_mnist", {"prior": "vampprior_data"}, "2", "static MNIST", "HVAE (L = 2) + VampPrior data"),
        ("dynamic_mnist", {"prior": "vampprior_data"}, "3", "dynamic MNIST", "HVAE (L = 2) + VampPrior data"),
        ("dynamic_mnist", {"model": "conv_hvae"}, "13", "dynamic MNIST", "ConvHVAE (L = 2) + VampPrior"),
        ("omniglot", {"num_components": 1000}, "14", "OMNIGLOT", "HVAE (L = 2) + VampPrior"),
        ("omniglot", {"prior": "standard", "num_components": 7}, "1", "OMNIGLOT", "HVAE (L = 2) + standard"),
        (
            "caltech101_silhouettes",
            {"model": "pixel_hvae"},
            "15",
            "Caltech 101 Silhouettes",
            "PixelHVAE (L = 2) + VampPrior",
        ),
        ("frey_faces_2", GRAY, "1", "Frey Faces", "HVAE (L = 2) + VampPrior"),
        ("histopathology", {"likelihood": "logistic"}, "1", "Histopathology", "HVAE (L = 2) + VampPrior"),
    ],
)
def test_a_checkpoint_is_in_the_tables_that_have_its_cell(
    dataset: str, config: dict[str, Any], numbers: str, data: str, model: str, put_card: PutCard, tables: Tables
) -> None:
    put_card("c", dataset, **config)
    found = tables()
    for number in "12345":
        shown = [(row["data set"], row["model"]) for row in run_rows(found[number])]
        assert shown == ([(data, model)] if number in numbers else [])
    assert "Other checkpoints" not in found


def test_the_standard_prior_of_table_1_is_called_sg_in_table_2(put_card: PutCard, tables: Tables) -> None:
    put_card("c", "static_mnist", prior="standard")
    found = tables()
    shown = [[row["model"] for row in run_rows(found[number])] for number in "12"]
    assert shown == [["HVAE (L = 2) + standard"], ["HVAE (L = 2) + SG"]]


@pytest.mark.parametrize(
    ("dataset", "config"),
    [
        ("static_mnist", {"num_components": 499}),
        ("static_mnist", {"prior": "mog", "num_components": 1}),
        ("static_mnist", {"prior": "weighted_vampprior"}),
        ("static_mnist", {"hidden_dim": 301}),
        ("static_mnist", {"likelihood": "logistic"}),
        ("dynamic_mnist", {"prior": "mog", "num_components": 1}),
        ("omniglot", {"num_components": 500}),
        ("digits", {"image_shape": (1, 8, 8)}),
        ("fashion_mnist", {"likelihood": "no such likelihood"}),
        ("", {}),
    ],
)
def test_a_checkpoint_that_is_no_cell_of_the_paper_is_among_the_others(
    dataset: str, config: dict[str, Any], put_card: PutCard, tables: Tables
) -> None:
    put_card("c", dataset, **config)
    found = tables()
    assert not any(run_rows(found[number]) for number in "12345")
    (other,) = found["Other checkpoints"]
    assert (other["data set"], other["checkpoint"]) == (dataset, "c@1")


def test_a_cell_says_how_it_came_to_be(put_card: PutCard, tables: Tables) -> None:
    put_card("c", log_likelihood=-83.5)
    row = find(tables()["2"], "static MNIST", "HVAE (L = 2) + VampPrior")
    assert row == {
        "data set": "static MNIST",
        "model": "HVAE (L = 2) + VampPrior",
        "paper": "-83.19",
        "ours": "-83.50 ± 0.25",
        "refined": "–",
        "gain (nats)": "–",
        "k-hat < 0.7": "–",
        "refinement": "–",
        "test images": "10,000",
        "samples": "5,000",
        "epochs (best/all)": "250/300",
        "seed": "1",
        "beyond the paper": "",
        "device": "a GPU",
        "wall-clock": "1.5 h",
        "checkpoint": "c@1",
    }


@pytest.mark.parametrize(
    ("recipe", "shown"),
    [
        ({"training": {"weight_decay": 0.0, "averaging": 0.0, "precision": "float32"}}, ""),
        ({"training": {"weight_decay": 0.5, "averaging": 0.999}}, "weight decay 0.5, EMA 0.999"),
        ({"training": {"averaging": 0.9, "precision": "bfloat16"}}, "EMA 0.9, bfloat16"),
        ({"training": {"weight_decay": "much"}, "pseudo_inputs": {"init": "noise"}}, ""),
        ({"pseudo_inputs": {"init": "data"}}, "pseudo-inputs from images"),
        ({"training": {"averaging": 0.9}, "pseudo_inputs": "data"}, "EMA 0.9"),
        ({"training": {"ema_decay": 0.9, "normalize_gradients": False}}, "gradients not normalized, EMA 0.9"),
        ({"training": {"normalize": False}}, "gradients not normalized"),
        ({"init_checkpoint": "c@1"}, "weights of c@1"),
        ({"start": "", "training": {"importance_samples": 1}}, ""),
        (
            {"start": "c@1", "training": {"importance_samples": 5, "annealing": True, "keep": "last"}},
            "weights of c@1, 5-sample bound, annealing, last weights",
        ),
        ({"start": "c@1", "pseudo_inputs": {"init": "data"}}, "weights of c@1"),
        ({"start": "c@1", "training": {"phase": "sleep", "annealing": True}}, "weights of c@1, sleep phase, annealing"),
        ({"start": "c@1", "training": {"phase": "wake-sleep"}}, "weights of c@1, wake-sleep phase"),
    ],
)
def test_settings_beyond_the_papers_are_named_by_old_and_new_keys(
    recipe: dict[str, Any], shown: str, put_card: PutCard, tables: Tables
) -> None:
    put_card("c", training={"recipe": recipe})
    assert find(tables()["1"], "static MNIST", "HVAE (L = 2) + VampPrior")["beyond the paper"] == shown


@pytest.mark.parametrize("prior", ["standard", "mog", "vampprior_data"])
def test_where_pseudo_inputs_start_is_no_matter_to_a_prior_that_learns_none(
    prior: str, put_card: PutCard, tables: Tables
) -> None:
    put_card("c", prior=prior, training={"recipe": {"pseudo_inputs": {"init": "data"}}})
    assert [row["beyond the paper"] for row in tables()["2"] if row["checkpoint"] == "c@1"] == [""]


def refined(log_likelihood: float, share: float, gain: float | None = None) -> dict[str, Any]:
    """Metrics with refined ones among them."""
    metrics = {
        "log_likelihood": log_likelihood,
        "log_likelihood_standard_error": 0.75,
        "num_images": 1000,
        "num_samples": 1024,
        "refine": 10,
        "reliable_share": share,
    }
    gains = {} if gain is None else {"gain_over_plain": gain, "gain_over_plain_standard_error": 0.03}
    return {"refined": metrics | gains}


def test_refined_numbers_stand_beside_the_plain_ones(put_card: PutCard, tables: Tables) -> None:
    put_card("c", log_likelihood=-83.5, metrics={"reliable_share": 0.2, **refined(-82.0, 0.92, gain=0.11)})
    put_card("d", prior="mog", metrics={"reliable_share": 0.25})
    put_card("e", "digits", metrics=refined(-15.0, 1.0))
    found = tables()
    row = find(found["2"], "static MNIST", "HVAE (L = 2) + VampPrior")
    assert (row["ours"], row["refined"]) == ("-83.50 ± 0.25", "-82.00 ± 0.75")
    assert (row["gain (nats)"], row["k-hat < 0.7"]) == ("+0.11 ± 0.03", "20% / 92%")
    assert row["refinement"] == "1,000 images, 10 steps, 1,024 samples"
    assert (row["test images"], row["samples"]) == ("10,000", "5,000")
    plain = find(found["2"], "static MNIST", "HVAE (L = 2) + MoG")
    columns = ("refined", "gain (nats)", "k-hat < 0.7", "refinement")
    assert [plain[column] for column in columns] == ["–", "–", "25% / –", "–"]
    assert [find(found["2"], "static MNIST", "VLAE")[column] for column in columns] == ["", "", "", ""]
    (other,) = found["Other checkpoints"]
    assert (other["refined"], other["gain (nats)"], other["k-hat < 0.7"]) == ("-15.00 ± 0.75", "–", "– / 100%")


def test_a_split_without_refined_numbers_is_not_in_their_mean(put_card: PutCard, tables: Tables) -> None:
    for split, bits in ((1, 4.4), (2, 4.6)):
        metrics = {"reliable_share": 0.1 * split, **refined(nats(bits), 0.5, gain=10.0 * split)}
        put_card(f"c-{split}", f"frey_faces_{split}", nats(5.0), metrics=metrics, **GRAY)
    put_card("c-3", "frey_faces_3", nats(5.0), metrics={"reliable_share": 0.9}, **GRAY)
    row = find(tables()["1"], "Frey Faces", "HVAE (L = 2) + VampPrior")
    assert row["ours"].startswith("5.000 ± 0.000 (3 of 3 splits)")
    assert row["refined"] == "4.500 ± 0.141 (2 of 3 splits)"
    assert (row["gain (nats)"], row["k-hat < 0.7"]) == ("+15.00 ± 0.02", "15% / 50%")


@pytest.mark.parametrize("metrics", ["high", {"log_likelihood": "high"}, {"num_images": 3}])
def test_refined_numbers_written_by_hand_are_shown_as_far_as_they_go(
    metrics: object, put_card: PutCard, tables: Tables
) -> None:
    put_card("c", metrics={"refined": metrics})
    assert find(tables()["1"], "static MNIST", "HVAE (L = 2) + VampPrior")["refined"] == "–"


def test_what_was_not_run_and_what_was_not_evaluated_says_so(put_card: PutCard, tables: Tables) -> None:
    put_card("c", log_likelihood=None)
    rows = tables()["1"]
    assert find(rows, "static MNIST", "HVAE (L = 2) + VampPrior")["ours"] == "not evaluated"
    assert find(rows, "static MNIST", "HVAE (L = 2) + VampPrior")["epochs (best/all)"] == "250/300"
    assert [row["ours"] for row in rows].count("not run") == 47
    assert find(tables()["2"], "static MNIST", "VLAE")["ours"] == ""


def test_a_run_that_was_ended_and_images_that_were_left_out_are_told(put_card: PutCard, tables: Tables) -> None:
    put_card("c", training={"finished": False}, metrics={"num_images": 2000})
    row = find(tables()["1"], "static MNIST", "HVAE (L = 2) + VampPrior")
    assert row["epochs (best/all)"] == "250/300 stopped early"
    assert row["test images"] == "2,000 of 10,000"


@pytest.mark.parametrize(("ours", "marked"), [(-80.0, False), (-83.68, False), (-83.70, True), (-90.0, True)], ids=str)
def test_half_a_nat_less_than_the_paper_is_marked(ours: float, marked: bool, put_card: PutCard, tables: Tables) -> None:
    put_card("c", log_likelihood=ours)
    row = find(tables()["1"], "static MNIST", "HVAE (L = 2) + VampPrior")
    assert row["ours"] == f"{ours:.2f} ± 0.25" + (" †" if marked else "")


@pytest.mark.parametrize(("ours", "marked"), [(4.2, False), (4.529, False), (4.531, True), (5.0, True)], ids=str)
def test_two_hundredths_of_a_bit_more_than_the_paper_are_marked(
    ours: float, marked: bool, put_card: PutCard, tables: Tables
) -> None:
    put_card("c", "frey_faces_1", nats(ours), **GRAY)
    row = find(tables()["1"], "Frey Faces", "HVAE (L = 2) + VampPrior")
    assert row["ours"] == f"{ours:.3f} (1 of 3 splits)" + (" †" if marked else "")


def test_bits_per_dimension_come_with_their_standard_error(put_card: PutCard, tables: Tables) -> None:
    dimensions = 28 * 28 * math.log(2.0)
    error = {"log_likelihood_standard_error": 0.02 * dimensions}
    put_card("c", "histopathology", -5.7 * dimensions, metrics=error, likelihood="logistic")
    assert find(tables()["1"], "Histopathology", "HVAE (L = 2) + VampPrior")["ours"] == "5.700 ± 0.020"


def test_frey_faces_are_the_mean_over_the_splits_with_its_spread(put_card: PutCard, tables: Tables) -> None:
    for split, bits in enumerate((4.40, 4.50, 4.66), start=1):
        put_card(f"c-{split}", f"frey_faces_{split}", nats(bits), training={"seed": split}, **GRAY)
    row = find(tables()["1"], "Frey Faces", "HVAE (L = 2) + VampPrior")
    assert row["ours"] == "4.520 ± 0.131 (3 of 3 splits)"
    assert (row["seed"], row["checkpoint"], row["device"]) == ("1, 2, 3", "c-1@1, c-2@1, c-3@1", "a GPU")


def test_a_split_that_was_not_evaluated_does_not_count(put_card: PutCard, tables: Tables) -> None:
    for split, score in enumerate((nats(4.4), nats(4.5), None), start=1):
        put_card(f"c-{split}", f"frey_faces_{split}", score, **GRAY)
    row = find(tables()["1"], "Frey Faces", "HVAE (L = 2) + VampPrior")
    assert row["ours"] == "4.450 ± 0.071 (2 of 3 splits)"


def test_the_newest_version_counts_and_no_other_name_displaces_it(put_card: PutCard, tables: Tables) -> None:
    for version, value in (("9", -84.0), ("10", -83.0)):
        put_card("c", log_likelihood=value, version=version)
    put_card("c-variant", log_likelihood=-80.0)
    found = tables()
    assert find(found["1"], "static MNIST", "HVAE (L = 2) + VampPrior")["ours"].startswith("-83.00")
    assert [row["checkpoint"] for row in found["Other checkpoints"]] == ["c@9", "c-variant@1"]


def test_the_substitute_of_omniglot_is_never_in_its_row(put_card: PutCard, tables: Tables) -> None:
    put_card("c", "omniglot_raw28", -120.0, num_components=1000)
    found = tables()
    for number in "14":
        assert find(found[number], "OMNIGLOT", "HVAE (L = 2) + VampPrior")["ours"] == "not run"
        row = find(found[number], "omniglot_raw28", "HVAE (L = 2) + VampPrior")
        assert (row["paper"], row["ours"]) == ("not comparable", "-120.00 ± 0.25")
    assert "Other checkpoints" not in found


def test_the_vampprior_costs_more_time_on_the_same_device(put_card: PutCard, tables: Tables) -> None:
    put_card("standard", prior="standard", training={"wall_clock_seconds": 3000.0})
    put_card("vampprior", training={"wall_clock_seconds": 4500.0})
    put_card("conv-standard", model="conv_hvae", prior="standard", training={"device": "another GPU"})
    put_card("conv-vampprior", model="conv_hvae")
    put_card("pixel-vampprior", model="pixel_hvae")
    hvae, conv, pixel = tables()["Wall-clock per epoch"]
    assert [hvae[key] for key in ("standard", "VampPrior", "ratio", "paper's ratio")] == [
        "10.0 s",
        "15.0 s",
        "1.50",
        "1.4",
    ]
    assert [conv[key] for key in ("standard", "VampPrior", "ratio")] == ["18.0 s", "18.0 s", ""]
    assert conv["device"] == "another GPU, a GPU"
    assert [pixel[key] for key in ("standard", "VampPrior", "ratio")] == ["not run", "18.0 s", ""]


def test_the_times_are_of_trainings_from_scratch(put_card: PutCard, tables: Tables) -> None:
    put_card("standard", prior="standard", training={"wall_clock_seconds": 3000.0})
    put_card("vampprior", training={"wall_clock_seconds": 4500.0})
    put_card("vampprior", version="2", training={"wall_clock_seconds": 90000.0, "recipe": {"start": "vampprior@1"}})
    (row,) = tables()["Wall-clock per epoch"]
    assert (row["VampPrior"], row["ratio"]) == ("15.0 s", "1.50")


def test_times_in_other_precision_do_not_compare(put_card: PutCard, tables: Tables) -> None:
    for prior, precision in (("standard", "float32"), ("vampprior", "bfloat16")):
        put_card(prior, prior=prior, training={"recipe": {"training": {"precision": precision}}})
    (row,) = tables()["Wall-clock per epoch"]
    assert (row["ratio"], row["device"]) == ("", "a GPU")


def test_cards_written_by_hand_are_shown_as_far_as_they_go(put_card: PutCard, tables: Tables) -> None:
    odd = {"seed": None, "epochs": "many", "recipe": "mine", "device": "a|b", "wall_clock_seconds": True}
    put_card("c", training=odd, metrics={"num_images": "all", "log_likelihood_standard_error": None})
    put_card("d", prior="mog", metrics={"log_likelihood": "high"})
    rows = tables()["2"]
    row = find(rows, "static MNIST", "HVAE (L = 2) + VampPrior")
    assert (row["ours"], row["test images"], row["device"]) == ("-85.00 †", "", r"a\|b")
    assert find(rows, "static MNIST", "HVAE (L = 2) + MoG")["ours"] == "not evaluated"


def test_a_damaged_card_is_named_and_the_others_are_shown(put_card: PutCard, tables: Tables, tmp_path: Path) -> None:
    put_card("c")
    put_card("d")
    (tmp_path / "store" / "d" / "1" / "card.json").write_text("{")
    found = tables()
    assert find(found["1"], "static MNIST", "HVAE (L = 2) + VampPrior")["checkpoint"] == "c@1"
    assert "card.json is not JSON" in found["Checkpoints that cannot be read"][0]["problem"]


def test_a_page_begins_with_the_command_that_made_it(command: Command, put_card: PutCard, tmp_path: Path) -> None:
    put_card("c", log_likelihood=-90.0)
    page, store = tmp_path / "RESULTS.md", tmp_path / "store"
    answer = command("table", "--markdown", "--output", page)
    assert (answer.code, answer.out) == (0, "")
    first, *_ = page.read_text().splitlines()
    assert f"`python -m training table --markdown --store {store} --output {page}`" in first
    assert f"more than {NATS.tolerance} nats or {BITS.tolerance} bits per dimension" in page.read_text()


def test_the_terminal_shows_the_same_tables(command: Command, put_card: PutCard) -> None:
    put_card("c", log_likelihood=-90.0)
    put_card("d", "digits")
    out = command("table").out
    assert "Table 5: Test log-likelihood for Caltech 101 Silhouettes" in out
    assert "-90.00 ± 0.25 †" in out
    assert "† worse than the paper" in out
    assert "Other checkpoints" in out


def test_an_empty_store_ends_in_one_line(command: Command) -> None:
    answer = command("table")
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert line.startswith("error: there is no checkpoint in")


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_narrow_terminal_cuts_no_number(
    width: int, command: Command, put_card: PutCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_card("static_mnist-hvae-vampprior", log_likelihood=-83.43)
    monkeypatch.setattr(
        "training.report.table.console", lambda file: Console(file=file, width=width, markup=False, highlight=False)
    )
    out = command("table").out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= width
    assert "-83.43" in out
    assert all(f"{value:.2f}" in out for table in TABLES for value in [row.value for row in table.rows])
