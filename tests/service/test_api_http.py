"""What HTTP itself offers: tags, conditional requests, compression, pages, other origins."""

from __future__ import annotations

import gzip
import json
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from service.http.problem_pages import REMEDIES
from service.http.problems import problem_tree

TAGGED = ["/pseudo-inputs", "/pseudo-inputs/1?format=json", "/models", "/models/tiny-vamp"]


@pytest.mark.parametrize("path", TAGGED)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_client_that_has_the_answer_is_not_sent_it_again(client: httpx.Client, path: str, method: str) -> None:
    first = client.get(path)
    etag = first.headers["ETag"]
    assert first.headers["Cache-Control"] == "no-cache"
    for given in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        again = client.request(method, path, headers={"If-None-Match": given})
        assert (again.status_code, again.content) == (304, b"")
        assert (again.headers["ETag"], again.headers["Vary"]) == (etag, first.headers["Vary"])
    other = client.request(method, path, headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.headers["ETag"]) == (200, etag)


def test_answers_have_the_same_tag_exactly_if_they_are_the_same(client: httpx.Client, pngs: list[bytes]) -> None:
    def tag(path: str, **options: Any) -> str:
        response = client.post(path, **options)
        assert response.status_code == 200
        return str(response.headers["ETag"])

    samples = ["/sample?seed=1", "/sample?seed=2", "/sample?seed=1&n=2", "/sample?seed=1&format=json"]
    assert len({tag(path) for path in samples}) == len(samples)
    assert tag("/sample?seed=1") == tag("/sample?seed=1&format=png&scale=1")
    calls = ["/loglik?num_samples=2", "/encode", "/reconstruct"]
    for path in calls:
        assert tag(path, files={"file": pngs[0]}) == tag(path, files={"file": pngs[0]})
        assert tag(path, files={"file": pngs[0]}) != tag(path, files={"file": pngs[1]})


def test_a_sample_without_a_seed_is_not_kept(client: httpx.Client) -> None:
    response = client.post("/sample")
    assert response.headers["Cache-Control"] == "no-store"
    assert "ETag" not in response.headers


def test_a_tag_does_not_keep_a_post_from_being_answered(client: httpx.Client) -> None:
    etag = client.post("/sample?seed=1").headers["ETag"]
    assert client.post("/sample?seed=1", headers={"If-None-Match": etag}).status_code == 200


@pytest.mark.parametrize("path", ["/pseudo-inputs?format=json", "/models", "/openapi.json"])
def test_answers_that_depend_on_headers_say_so(client: httpx.Client, path: str) -> None:
    if path != "/openapi.json":
        assert client.get(path).headers["Vary"] == "Accept, Accept-Encoding"


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("br, gzip;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("identity", False),
        ("gzip;q=x", False),
    ],
)
def test_json_is_compressed_for_clients_that_take_it(client: httpx.Client, accepted: str, compressed: bool) -> None:
    path = "/pseudo-inputs?format=json"
    with client.stream("GET", path, headers={"Accept-Encoding": accepted}) as response:
        raw = b"".join(response.iter_raw())
    assert (response.headers.get("Content-Encoding") == "gzip") == compressed
    assert int(response.headers["Content-Length"]) == len(raw)
    body = json.loads(gzip.decompress(raw) if compressed else raw)
    assert len(body["pseudo_inputs"]) == 6


def test_neither_images_nor_short_answers_are_compressed(client: httpx.Client) -> None:
    for path in ("/pseudo-inputs?scale=16", "/health/live"):
        assert "Content-Encoding" not in client.get(path, headers={"Accept-Encoding": "gzip"}).headers


@pytest.mark.parametrize("accept", ["text/html", "image/webp", "text/*, image/avif;q=0.5", "image/png;q=0, text/html"])
def test_formats_that_there_are_not_are_refused(client: httpx.Client, problem: Any, accept: str) -> None:
    response = client.get("/pseudo-inputs", headers={"Accept": accept})
    problem(response, 406, "not-acceptable")
    assert "image/png" in response.json()["detail"]
    assert client.get("/pseudo-inputs?format=png", headers={"Accept": accept}).status_code == 200


def test_a_client_that_asks_for_bytes_gets_a_png_by_that_name(client: httpx.Client) -> None:
    response = client.get("/pseudo-inputs", headers={"Accept": "application/octet-stream"})
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.content == client.get("/pseudo-inputs").content


def links(response: httpx.Response) -> dict[str, str]:
    return {name: urljoin(str(response.url), link["url"]) for name, link in response.links.items()}


def test_pages_lead_through_the_whole_gallery(client: httpx.Client) -> None:
    response, seen = client.get("/pseudo-inputs?limit=4&format=json&sort=weight"), []
    assert set(links(response)) == {"next", "last"}
    while True:
        seen += [item["index"] for item in response.json()["pseudo_inputs"]]
        if "next" not in links(response):
            break
        response = client.get(links(response)["next"])
    assert sorted(seen) == list(range(6))
    assert set(links(response)) == {"first", "prev"}
    assert client.get(links(response)["prev"]).json()["pseudo_inputs"][0]["index"] == seen[0]
    assert links(client.get("/pseudo-inputs?limit=6")) == {}


def test_the_type_of_every_problem_leads_to_a_page(client: httpx.Client, problem: Any) -> None:
    assert set(REMEDIES) == set(problem_tree())
    index = client.get("/problems").text
    for kind, remedy in REMEDIES.items():
        response = client.get(f"/problems/{kind.slug}")
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/html")
        assert remedy.replace("'", "&#x27;") in response.text
        assert f'href="problems/{kind.slug}"' in index
    problem(client.get("/problems/<script>"), 404, "not-found")


ORIGIN = "https://example.org"


def test_pages_of_other_origins_may_call_the_service_if_it_is_set_so(serve: Any, client: httpx.Client) -> None:
    assert "access-control-allow-origin" not in client.get("/models", headers={"Origin": ORIGIN}).headers
    preflight = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "inference-header-content-length, x-api-key",
    }
    with serve(cors_origins=f"{ORIGIN}, http://localhost:3000", api_keys="one") as service:
        answer = service.client.options("/sample", headers=preflight)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, ORIGIN)
        stranger = service.client.options("/sample", headers=preflight | {"Origin": "https://else.org"})
        assert "access-control-allow-origin" not in stranger.headers
        for headers, status in (({}, 401), ({"X-API-Key": "one"}, 200)):
            response = service.client.post("/sample", headers={"Origin": ORIGIN, **headers})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == ORIGIN
            assert "X-Seed" in response.headers["access-control-expose-headers"]
