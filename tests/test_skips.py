"""With `--no-skips`, a test that is skipped has failed, unless it needs a GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = {
    "test_mark.py": """
import pytest
@pytest.mark.skip(reason="no tool")
def test_skipped(): pass
def test_passed(): pass
@pytest.mark.xfail
def test_expected(): assert False
""",
    "test_fixture.py": """
import pytest
@pytest.fixture
def tool(): pytest.skip("no tool")
def test_skipped(tool): pass
""",
    "test_module.py": "import pytest; pytest.importorskip('no_such_module')",
    "vampprior/test_pixelcnn.py": """
import pytest
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_same_uniforms_give_the_same_images_as_full_passes(device): pytest.skip("no GPU")
""",
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        file = tmp_path / "tests" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    shutil.copy(HERE / "conftest.py", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\naddopts = --import-mode=importlib\n")
    return tmp_path


def run(suite: Path, *options: str) -> tuple[int, str, set[str]]:
    """Exit status of pytest, its last line, and what it says has failed."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", *options],
        cwd=suite,
        capture_output=True,
        text=True,
    )
    failed = set(re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", ended.stdout, re.MULTILINE))
    return ended.returncode, ended.stdout.splitlines()[-1], failed


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("--numprocesses", "1")], ids=["alone", "with a worker"])
def test_skips_fail_but_for_those_that_need_a_gpu(suite: Path, workers: tuple[str, ...]) -> None:
    status, summary, failed = run(suite, "--no-skips", *workers, "--continue-on-collection-errors")
    assert status == 1
    assert failed == {
        "test_mark.py::test_skipped",
        "test_fixture.py::test_skipped",
        "test_module.py",
        "vampprior/test_pixelcnn.py::test_the_same_uniforms_give_the_same_images_as_full_passes[cpu]",
    }
    assert re.match(r"1 failed, 1 passed, 1 skipped, 1 xfailed, 3 errors in", summary)


def test_skips_pass_without_the_option(suite: Path) -> None:
    status, summary, failed = run(suite)
    assert (status, failed) == (0, set())
    assert re.match(r"1 passed, 5 skipped, 1 xfailed in", summary)
