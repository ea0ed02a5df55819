"""A former release of the project, checked out so that its service can be measured beside the present one."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Release", "checked_out", "git"]

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Release:
    """A commit and the folder that its files are in."""

    commit: str
    subject: str
    folder: Path

    @property
    def name(self) -> str:
        """Name of its service among the contestants."""
        return f"commit {self.commit}"


@contextlib.contextmanager
def checked_out(commit: str, repository: Path = REPOSITORY) -> Iterator[Release]:
    """Check a commit out into a temporary work tree.

    Raises `LookupError` if the repository has no such commit.
    """
    try:
        short, _, subject = git("log", "-1", "--format=%h %s", commit, "--", repository=repository).partition(" ")
    except subprocess.CalledProcessError as error:
        raise LookupError(f"no commit {commit}: {error.stderr.strip()}") from None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "release"
        git("worktree", "add", "--detach", str(folder), short, repository=repository)
        try:
            yield Release(short, subject, folder)
        finally:
            git("worktree", "remove", "--force", str(folder), repository=repository)


def git(*arguments: str, repository: Path = REPOSITORY) -> str:
    """Output of a git command. Raises `subprocess.CalledProcessError` if it fails."""
    return subprocess.run(
        ["git", *arguments], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.strip()
