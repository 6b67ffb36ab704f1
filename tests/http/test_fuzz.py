"""Whatever is sent, the answer is an edit or a well-formed refusal, and never the server's fault."""

import json
from typing import Any
from urllib.parse import quote

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import pictures
from tests.http.api import ABSENT, EDITS, JSON, SOURCE, canvas_request, files, refusal

EXAMPLES = 60
bounded = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

FIELDS = [*canvas_request(), "mask", "n", "seed", "model", "guidance_scale", "output_format", "stream", "user"]
MEDIA_TYPES = ["application/json", "application/json; charset=utf-8", "text/plain", "multipart/form-data", "", "a/b/c"]

numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([2**63, -(2**63), 2**64, 10**30, -0.0, 1e308]))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=50))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)),
    max_leaves=12,
)
picture = st.one_of(
    st.just(SOURCE),
    st.just({"image_url": f"data:image/png;base64,{SOURCE}"}),
    st.binary(max_size=200).map(pictures.base64_of),
    st.binary(max_size=200).map(lambda data: pictures.base64_of(pictures.SIGNATURE + data)),
    values,
)


@st.composite
def mutated_pngs(draw: st.DrawFn) -> bytes:
    """A small PNG with a few bytes changed, cut off, or a chunk changed under a right checksum."""
    data = pictures.rgb((16, 16))
    if draw(st.booleans()):
        chunks = pictures.split(data)
        at = draw(st.integers(0, len(chunks) - 1))
        chunks[at] = (chunks[at][0], draw(st.binary(max_size=40)))
        return pictures.join(chunks)
    changed = bytearray(data[: draw(st.integers(0, len(data)))])
    for _ in range(draw(st.integers(0, 3))):
        if changed:
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


def _is_well_formed(response: httpx.Response) -> None:
    assert response.status_code < 500, response.text
    if response.status_code == 200:
        assert files(response) if "b64_json" in response.json()["data"][0] else response.json()["data"]
    else:
        refusal(response)


def _post(http: httpx.Client, body: Any) -> httpx.Response:
    """Python's JSON also writes NaN and lone surrogates, which are part of the test."""
    return http.post(EDITS, content=json.dumps(body).encode(), headers=JSON)


@bounded
@given(body=values)
def test_any_json_is_refused(http: httpx.Client, body: Any) -> None:
    response = _post(http, body)
    _is_well_formed(response)
    assert response.status_code == 400


@bounded
@given(
    changes=st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=3),
    dropped=st.sets(st.sampled_from(FIELDS), max_size=1),
)
def test_a_request_with_changed_fields_is_answered(
    http: httpx.Client, changes: dict[str, Any], dropped: set[str]
) -> None:
    body = canvas_request(**{"num_inference_steps": 1, **changes, **dict.fromkeys(dropped, ABSENT)})
    _is_well_formed(_post(http, body))


@bounded
@given(images=st.lists(picture, max_size=3), mask=st.one_of(st.just(ABSENT), picture))
def test_any_pictures_are_answered(http: httpx.Client, images: list[Any], mask: Any) -> None:
    _is_well_formed(_post(http, canvas_request(images=images, mask=mask)))


@bounded
@given(data=mutated_pngs())
def test_any_damaged_png_is_answered(http: httpx.Client, data: bytes) -> None:
    _is_well_formed(_post(http, canvas_request(images=[pictures.base64_of(data)])))


@bounded
@given(body=st.binary(max_size=500), media_type=st.sampled_from(MEDIA_TYPES))
def test_any_bytes_of_any_type_are_refused(http: httpx.Client, body: bytes, media_type: str) -> None:
    response = http.post(EDITS, content=body, headers={"content-type": media_type})
    _is_well_formed(response)
    assert response.status_code in (400, 415)


@bounded
@given(path=st.text(max_size=30))
def test_any_address_is_answered(http: httpx.Client, path: str) -> None:
    response = http.get(f"/v1/{quote(path.encode('utf-8', 'replace'))}")
    assert response.status_code in (200, 403, 404, 405)
    if response.status_code != 200:
        refusal(response)
