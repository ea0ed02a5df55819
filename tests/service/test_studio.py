"""The page of the studio and its files, as they are served."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

STATIC = Path(__file__).parents[2] / "service" / "static"
FILES = sorted(path.name for path in STATIC.iterdir())
SOURCES = "".join(path.read_text(encoding="utf-8") for path in STATIC.glob("*.js"))
PATHS = ["/", *(f"/static/{name}" for name in FILES)]


@pytest.mark.parametrize("path", PATHS)
def test_every_file_is_served_with_headers_that_keep_other_scripts_out(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.content == (STATIC / (path.removeprefix("/static/").strip("/") or "index.html")).read_bytes()
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/", "/static/studio.css"])
def test_what_the_browser_has_is_not_sent_again(client: httpx.Client, path: str) -> None:
    first = client.get(path)
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/studio.css"])
def test_head_and_ranges(client: httpx.Client, path: str) -> None:
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert client.get(path, headers={"Range": "bytes=0-9"}).content == client.get(path).content


@pytest.mark.parametrize(
    "path", ["/static/missing.js", "/static/..%2fschemas.py", "/static/", "/static/%2e%2e/errors.py"]
)
def test_nothing_else_is_served(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(("name", "media_type"), [("main.js", "text/javascript"), ("studio.css", "text/css")])
def test_browsers_accept_the_types(client: httpx.Client, name: str, media_type: str) -> None:
    assert client.get(f"/static/{name}").headers["content-type"].startswith(media_type)


def test_the_page_needs_no_key(serve: Any) -> None:
    with serve(api_keys="one") as service:
        assert {service.client.get(path).status_code for path in PATHS} == {200}


def test_all_files_together_are_small() -> None:
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < 150_000


def test_data_never_becomes_markup_and_nothing_is_stored() -> None:
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage|sessionStorage"
    )
    assert re.findall(forbidden, SOURCES.replace("without innerHTML", "")) == []


def test_the_page_has_no_script_or_style_of_its_own() -> None:
    class Page(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[tuple[str, dict[str, str | None]]] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append((tag, dict(attrs)))

    page = Page()
    page.feed((STATIC / "index.html").read_text(encoding="utf-8"))
    assert all(attributes.get("src") for tag, attributes in page.tags if tag == "script")
    assert "style" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name == "style" or name.startswith("on")]


def test_no_address_of_another_host_is_in_the_files() -> None:
    texts = [path.read_text(encoding="utf-8") for path in STATIC.iterdir()]
    assert set(re.findall(r"https?://[^\"'\s)]+", "".join(texts))) == {"http://www.w3.org/2000/svg"}
