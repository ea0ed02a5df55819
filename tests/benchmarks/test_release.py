"""A former release among the contestants."""

from __future__ import annotations

import pytest

from benchmarks.contestants import SERVICE, services
from benchmarks.machine import Options
from benchmarks.release import Release, checked_out, git


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with two commits."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.org")
    folder = tmp_path / "repository"
    folder.mkdir()
    git("init", repository=folder)
    for text in ("first", "second"):
        (folder / "file").write_text(text)
        git("add", "file", repository=folder)
        git("commit", "-m", f"Write the {text} text", repository=folder)
    return folder


def test_a_commit_is_checked_out_for_a_while(repository):
    with checked_out("HEAD~1", repository) as release:
        assert (release.folder / "file").read_text() == "first"
        assert release.subject == "Write the first text"
        assert git("rev-parse", "HEAD~1", repository=repository).startswith(release.commit)
    assert not release.folder.exists()
    assert len(git("worktree", "list", repository=repository).splitlines()) == 1


def test_an_unknown_commit_is_named(repository):
    with pytest.raises(LookupError, match="no commit nonsense"), checked_out("nonsense", repository):
        pass


@pytest.mark.parametrize(("engine", "variable"), [(False, "VAMP_THREADS"), (True, "VAMP_WORKERS")])
def test_a_former_service_is_given_the_variables_it_knows(tmp_path, engine, variable):
    if engine:
        (tmp_path / "service" / "engine").mkdir(parents=True)
        (tmp_path / "service" / "engine" / "loader.py").touch()
    options = Options(former=Release("abc1234", "Change something", tmp_path))
    service, former = services(options)
    assert service == SERVICE
    assert (former.name, former.folder) == ("commit abc1234", tmp_path)
    assert {name for name in former.environment if name in ("VAMP_THREADS", "VAMP_WORKERS")} == {variable}
    assert options.settings()["against"] == "abc1234 Change something"


def test_without_a_former_release_the_service_is_alone():
    assert services(Options()) == [SERVICE]
    assert "against" not in Options().settings()
