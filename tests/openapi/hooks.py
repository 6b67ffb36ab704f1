"""What Schemathesis has to know beyond the document: pictures, and the rules that no JSON Schema can say.

Schemathesis imports this module in its own process. A case is changed on its way to the server and never judged
differently; what is wrong in it stays wrong.
"""

import io
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis import CheckContext, HookContext, Response
from schemathesis.transport import SerializationContext, register_serializer
from schemathesis.transport.requests import multipart_serializer

from serve.deployments.deadline import TIME_LIMIT_HEADERS
from serve.deployments.description import EDITS_ROUTE
from serve.deployments.runbook import KEY_HEADER
from serve.schema import MAX_IMAGES, request_schema
from serve.schema.refusals import value_rule
from tests.pictures import base64_of, data_url

Case = schemathesis.Case[Any]

MODEL = "open"
"""Of the server that is tested."""

FORM = "multipart/form-data"
LONG_S = 60.0
_GOOD_KEY = re.compile("[!-~]([ -~]*[!-~])?")
_INTEGERS = [name for name, rule in request_schema()["properties"].items() if value_rule(rule).get("type") == "integer"]
_IMAGES = ("image", "image[]")


def _png(colour: str) -> bytes:
    """Of one size, and in part transparent, so that each can be the mask of any other in every `mask_mode`."""
    picture = Image.new("RGBA", (8, 8), colour)
    picture.paste((0, 0, 0, 0), (0, 0, 4, 8))
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()


PNGS = [_png(colour) for colour in ("red", "white", "grey")]
TEXTS = {base64_of(png): png for png in PNGS}
URLS = [data_url(png) for png in PNGS]
schemathesis.openapi.format("png", st.sampled_from([*TEXTS, *URLS]))
schemathesis.openapi.format("png-url", st.sampled_from(URLS))
schemathesis.openapi.format("binary", st.sampled_from(list(TEXTS)))

_keys: dict[str, str] = {}
_links: set[tuple[str, str]] = set()


@schemathesis.hook
def before_load_schema(context: HookContext, raw_schema: dict[str, Any]) -> None:
    """OpenAPI's own expressions cannot take a URL apart, so the document only says in words where this link leads."""
    url = "$response.body#/data/0/url#regex:"
    raw_schema["paths"][EDITS_ROUTE]["post"]["responses"]["200"]["links"]["file"]["parameters"] = {
        "path.name": f"{url}/v1/files/([^?]+)",
        "query.expires": f"{url}expires=([^&]+)",
        "query.signature": f"{url}signature=([^&]+)",
    }


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    _allow_time(case)
    if isinstance(case.body, dict):
        form = case.media_type == FORM
        for change in (_give_own_key, _name_served_model, _count_pictures if form else _write_integers):
            change(case, case.body)


def send_form(ctx: SerializationContext, value: Any) -> dict[str, Any]:
    """Schemathesis judges by the document what it is about to send, which it cannot where there are bytes."""
    if isinstance(value, dict):
        value = {name: _files(part) if name in (*_IMAGES, "mask") else part for name, part in value.items()}
    return multipart_serializer(ctx, value)


register_serializer(send_form, FORM)  # the decorator of that name is for bodies that are bytes as a whole


@schemathesis.hook
def after_call(context: HookContext, case: Case, response: Response) -> None:
    if case.path == EDITS_ROUTE and response.status_code == 200 and _media_type(response) == "application/json":
        _links.update(_parts(item["url"]) for item in response.json()["data"] if "url" in item)


@schemathesis.check
def a_link_opens(ctx: CheckContext, response: Response, case: Case) -> None:
    """Whatever URL an edit was answered with is a picture."""
    if response.request.method == "GET" and _parts(str(response.request.url)) in _links:
        assert response.status_code == 200, f"a link was answered {response.status_code}"
        assert _media_type(response).startswith("image/")


@schemathesis.check
def an_answer_names_its_request(ctx: CheckContext, response: Response, case: Case) -> None:
    """Also one to a method or an address that the document knows nothing of."""
    assert len(response.headers.get("x-request-id", [])) == 1


def _allow_time(case: Case) -> None:
    """A time that is too short is no invalid one, and answered 408 or 429, which says nothing of the request."""
    for name in TIME_LIMIT_HEADERS:
        seconds = _number((case.headers or {}).get(name))
        if 0 < seconds < LONG_S:
            case.headers[name] = str(LONG_S)


def _give_own_key(case: Case, body: dict[str, Any]) -> None:
    """A good key that was used is none of another request, and a schema knows no other."""
    key = (case.headers or {}).get(KEY_HEADER)
    if not isinstance(key, str) or not _GOOD_KEY.fullmatch(key):
        return
    if _keys.setdefault(key, repr(body)) != repr(body):
        case.headers[KEY_HEADER] = f"own-{len(_keys)}"
        _keys[f"own-{len(_keys)}"] = repr(body)


def _name_served_model(case: Case, body: dict[str, Any]) -> None:
    """Any text is a model's name, and nearly all of them are 404."""
    if isinstance(body.get("model"), str) and body["model"]:
        body["model"] = MODEL


def _write_integers(case: Case, body: dict[str, Any]) -> None:
    """JSON Schema takes 1.0 for an integer, and the contract, whose types are strict, does not."""
    for name in _INTEGERS:
        if isinstance(body.get(name), float) and body[name].is_integer():
            body[name] = int(body[name])


def _count_pictures(case: Case, body: dict[str, Any]) -> None:
    """Those of both names are counted together."""
    one, more = (body.get(name) for name in _IMAGES)
    if isinstance(one, list) and isinstance(more, list) and max(len(one), len(more)) <= MAX_IMAGES:
        body[_IMAGES[1]] = more[: MAX_IMAGES - len(one)]


def _files(value: Any) -> Any:
    if isinstance(value, list):
        return [_files(item) for item in value]
    return TEXTS.get(value, value) if isinstance(value, str) else value


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return 0.0


def _media_type(response: Response) -> str:
    return response.headers.get("content-type", [""])[0].partition(";")[0]


def _parts(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.path, repr(sorted(parse_qs(parts.query).items()))
