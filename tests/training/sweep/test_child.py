from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import training
from training.sweep.child import last_line, start

ROOT = Path(training.__file__).parents[1]
PARENT = """
import sys
from pathlib import Path
from training.sweep.child import start
child = "import time; print('begun', flush=True); time.sleep(60); print('has outlived its parent')"
start([sys.executable, "-c", child], Path(sys.argv[1])).wait()
"""


def test_a_log_keeps_every_command_and_what_it_said(tmp_path: Path) -> None:
    log = tmp_path / "run" / "log.txt"
    said = []
    for words in ("print(1)\nprint()", "import sys; sys.exit('a mistake')", "pass"):
        child = start([sys.executable, "-c", words], log)
        said.append((child.wait(), last_line(log)))
    assert said == [(0, "1"), (1, "a mistake"), (0, "")]
    assert log.read_text().count(f"$ {sys.executable} -c ") == 3


def test_the_last_line_of_a_long_log_is_whole(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("é" * 100_000 + "\nthe end\n\n")
    assert last_line(tmp_path / "log.txt") == "the end"
    assert last_line(tmp_path / "gone" / "log.txt") == ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_a_child_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    os.mkfifo(log)  # which comes to its end when the last process that writes into it has ended
    parent = subprocess.Popen([sys.executable, "-c", PARENT, log], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    guard = threading.Timer(60.0, parent.kill)
    guard.start()
    with open(log) as written:
        assert "begun\n" in written
        parent.kill()
        assert written.read() == ""
    parent.wait()
    guard.cancel()
