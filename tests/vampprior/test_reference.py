"""Every shipped checkpoint gives its reference numbers for the same noise.

In float64 they must agree up to a relative error of 1e-8. In float32 the tolerance is a relative error of 1e-6 plus
twice the error of the reference's own float32 numbers, measured against its float64 numbers.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

PLACE = Path(__file__).with_name("reference.py")


def load_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", PLACE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load_reference()
EXPECTED = json.loads(reference.FILE.read_text(encoding="utf-8"))
RELATIVE = {"float64": 1e-8, "float32": 1e-6}


def test_every_shipped_checkpoint_has_reference_numbers() -> None:
    assert set(EXPECTED) == set(reference.checkpoints())


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("name", EXPECTED)
def test_a_checkpoint_gives_its_reference_numbers(name: str, dtype: str) -> None:
    numbers = reference.numbers_of(reference.STORE / name, reference.DTYPES[dtype])
    expected = EXPECTED[name][dtype]
    assert numbers.keys() == expected.keys()
    for key, values in numbers.items():
        torch.testing.assert_close(
            torch.tensor(values, dtype=torch.float64),
            torch.tensor(expected[key], dtype=torch.float64),
            rtol=RELATIVE[dtype],
            atol=2.0 * rounding_error(name, key) if dtype == "float32" else 1e-9,
            msg=lambda text, key=key: f"{key}: {text}",
        )


def rounding_error(name: str, key: str) -> float:
    """Error of the reference's own float32 numbers, which another processor's order of sums may change."""
    exact, rounded = (torch.tensor(EXPECTED[name][dtype][key], dtype=torch.float64) for dtype in RELATIVE)
    return float((exact - rounded).abs().max())
