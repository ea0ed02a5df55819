"""Types that `openapi-typescript` generates from the OpenAPI document: a program that uses them compiles and runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.tools

PROGRAM = Path(__file__).parent / "typescript" / "use.mts"
PACKAGES = ["openapi-typescript@7", "openapi-fetch@0.17", "typescript@5", "@types/node@22"]
COMPILER = [
    "--strict",
    "--module",
    "nodenext",
    "--target",
    "es2022",
    "--rewriteRelativeImportExtensions",
    "--skipLibCheck",
]


def test_a_typescript_program_calls_the_service(service: Any, pngs: list[bytes], tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("needs npm")

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (tmp_path / "openapi.json").write_bytes(service.client.get("/openapi.json").content)
    (tmp_path / "digit.png").write_bytes(pngs[0])
    shutil.copy(PROGRAM, tmp_path)
    run("npm", "install", "--silent", "--no-fund", "--no-audit", *PACKAGES)
    run("npx", "openapi-typescript", "openapi.json", "-o", "api.ts")
    run("npx", "tsc", *COMPILER, "--outDir", "out", PROGRAM.name)
    assert run("node", "out/use.mjs", service.url, tmp_path / "digit.png").startswith("done")
