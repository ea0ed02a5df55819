"""The processes of a server, and their memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.processes import memory_mb, processes

PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
child.stdin.close()
child.wait()
"""
CHILD = """
import os, sys
os.nice(3)
block = b"x" * 50_000_000
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def family():
    """A process whose child holds 50 MB at a lower priority: the numbers of both."""
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        yield parent.pid, int(parent.stdout.readline())
        parent.stdin.close()


def test_descendants_come_with_their_depth_and_priority(family):
    parent, child = family
    found = [*processes(parent)]
    assert [(one.pid, one.depth) for one in found] == [(parent, 0), (child, 1)]
    assert found[1].nice == min(19, found[0].nice + 3)


def test_memory_includes_that_of_children(family):
    parent, child = family
    assert 50 < memory_mb(child) < memory_mb(parent)


def test_a_process_that_has_ended_has_no_memory():
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    assert [*processes(ended.pid)] == []
    assert memory_mb(ended.pid) == 0
