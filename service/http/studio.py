"""The studio: a page at `/`, with its files below `/static/`."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.responses import FileResponse
from starlette.types import Scope

from service.http.documentation import WholeFiles, without_range

__all__ = ["install_studio"]

STATIC_FOLDER = Path(__file__).parents[1] / "static"

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Cache-Control": "no-cache",  # browsers keep the files, and ask each time whether they have changed
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class StudioFiles(WholeFiles):
    """The files of the studio, with an ETag and the headers that keep other scripts out."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """The whole file, or 304 if the browser has it."""
        response = FileResponse(full_path, status_code=status_code, stat_result=stat_result, headers=HEADERS)
        if status_code == 200 and self.is_not_modified(response.headers, Request(scope).headers):
            return Response(status_code=304, headers={**HEADERS, "ETag": response.headers["etag"]})
        return response


def install_studio(app: FastAPI) -> None:
    """Add the page and its files."""
    files = StudioFiles(directory=STATIC_FOLDER)

    async def studio(request: Request) -> Response:
        request.scope["headers"] = without_range(request.scope)["headers"]
        return await files.get_response("index.html", request.scope)

    app.add_route("/", studio, include_in_schema=False)
    app.mount("/static", files, name="static")
