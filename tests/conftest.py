"""The option `--no-skips`: a skipped test counts as failed, so that a machine that lacks a tool does not pass."""

from __future__ import annotations

from collections.abc import Generator

import pytest

# The only tests that may be skipped all the same, each with the value of its parameter that needs a GPU.
NEED_GPU = {"tests/vampprior/test_pixelcnn.py::test_the_same_uniforms_give_the_same_images_as_full_passes": "cuda"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="Fail skipped tests, except those that need a GPU.")


def needs_gpu(node: str) -> bool:
    """True if the test with this node id, such as `test_file.py::test_name[cpu-2]`, is one of `NEED_GPU`."""
    name, _, parameters = node.removesuffix("]").partition("[")
    return name in NEED_GPU and NEED_GPU[name] in parameters.split("-")


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    """Turn a report that says "skipped" into one that says "failed", if `--no-skips` was given."""
    if not (config.getoption("--no-skips") and report.skipped):
        return
    if hasattr(report, "wasxfail") or needs_gpu(report.nodeid):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid}: {reason} (--no-skips)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_if_skipped(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_if_skipped(report, collector.config)
    return report
