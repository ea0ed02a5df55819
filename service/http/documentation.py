"""Swagger UI without a CDN, and a page for each kind of problem."""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from service.http.problem_pages import problem, problems

__all__ = ["WholeFiles", "install_documentation", "without_range"]

STATIC_PATH = "/static-offline-docs"
STATIC_FOLDER = Path(fastapi_offline.__file__).parent / "static"


def install_documentation(app: FastAPI) -> None:
    """Add `/docs` with its files, and the pages that the types of problems lead to."""

    async def docs(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} - Swagger UI",
            swagger_js_url=f"{root}{STATIC_PATH}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{STATIC_PATH}/swagger-ui.css",
            swagger_favicon_url=f"{root}{STATIC_PATH}/favicon.png",
            swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
        )

    app.add_route("/problems", problems, include_in_schema=False)
    app.add_route("/problems/{slug}", problem, include_in_schema=False)
    app.add_route("/docs", docs, include_in_schema=False)
    app.mount(STATIC_PATH, WholeFiles(directory=STATIC_FOLDER), name="static-offline-docs")


class WholeFiles(StaticFiles):
    """Static files without ranges, whose errors Starlette answers as plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the whole file."""
        await super().__call__(without_range(scope), receive, send)


def without_range(scope: Scope) -> Scope:
    """The scope of a request without its `Range` header."""
    return {**scope, "headers": [header for header in scope.get("headers", ()) if header[0] != b"range"]}
