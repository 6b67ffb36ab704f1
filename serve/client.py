"""A small client of the public API, for the command line: one edit, or the list of models, of any server by its URL.

It knows nothing of the server but the HTTP contract, and loads neither torch nor Ray.
"""

import base64
import binascii
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any

import httpx
from httpx_sse import EventSource

API_KEY_VARIABLE = "RETOUCH_API_KEY"
RETRIES = 4
MAX_WAIT_S = 120.0
"""Of all waits between the tries of one request together."""
CONNECT_TIMEOUT_S = 5.0


ProgressTold = Callable[[int, int], None]
"""Steps of all pictures done, and that each of them takes."""


class ClientError(Exception):
    """The answer could not be had. The message is one sentence for the person who asked."""


class Refused(ClientError):
    """The server answered with an error of its own, or with something that is no answer of this API."""


class Unreachable(ClientError):
    """No server answered at this address, or not in time."""


@dataclass(frozen=True, slots=True)
class EditCall:
    """images and mask: PNG files. options: the further fields of the request's JSON body, by their names in the API."""

    prompt: str
    images: Sequence[bytes]
    mask: bytes | None = None
    options: Mapping[str, str | int | float] = field(default_factory=dict[str, str | int | float])

    def body(self) -> dict[str, Any]:
        mask = {} if self.mask is None else {"mask": _base64(self.mask)}
        images = [_base64(image) for image in self.images]
        return {"images": images, "prompt": self.prompt, **mask, **self.options, "response_format": "b64_json"}


@dataclass(frozen=True, slots=True)
class EditedPicture:
    """data: the file as the server encoded it. seed: draws it again; None where the server does not tell."""

    data: bytes
    seed: int | None


@dataclass(frozen=True, slots=True)
class EditAnswer:
    """model and size: what the server says it used; empty where it does not tell."""

    pictures: tuple[EditedPicture, ...]
    model: str
    size: str


class Client:
    """url: of the server, with or without `/v1`. key: an API key, where it wants one. wait: sleeps that many seconds
    between two tries.

    Every method raises `Refused` or `Unreachable`. A request that was turned away for load is tried again, after the
    time the server asked for, up to `RETRIES` times and `MAX_WAIT_S`.
    """

    def __init__(
        self, url: str, timeout_s: float = 600.0, wait: Callable[[float], None] = time.sleep, key: str = ""
    ) -> None:
        self.url = _base_url(url)
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout_s = timeout_s
        self._wait = wait

    def edit(self, call: EditCall, progress: ProgressTold | None = None) -> EditAnswer:
        """One edit; as many pictures as the call's `n`. progress: told after each step of any of them."""
        body = call.body() if progress is None else {**call.body(), "stream": True}
        answer = self._send("POST", "/v1/images/edits", body, progress)
        try:
            pictures = tuple(_picture(item) for item in answer["data"])
        except (KeyError, TypeError, binascii.Error):
            raise self._not_this_api() from None
        return EditAnswer(pictures, str(answer.get("model", "")), str(answer.get("size", "")))

    def models(self) -> list[dict[str, Any]]:
        """The models as the server lists them, each with at least an `id`."""
        models = self._send("GET", "/v1/models").get("data")
        if not isinstance(models, list) or not all(isinstance(model, dict) and "id" in model for model in models):
            raise self._not_this_api()
        return models

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, progress: ProgressTold | None = None
    ) -> dict[str, Any]:
        waited_s = 0.0
        with self._http() as http:
            answer = self._try(http, method, path, body, progress)
            for _ in range(RETRIES):
                wait_s = _asked_wait_s(answer) if isinstance(answer, httpx.Response) else None
                if wait_s is None or waited_s + wait_s > MAX_WAIT_S:
                    break
                self._wait(wait_s)
                waited_s += wait_s
                answer = self._try(http, method, path, body, progress)
        return self._answer(answer) if isinstance(answer, httpx.Response) else answer

    def _http(self) -> httpx.Client:
        timeout = httpx.Timeout(self._timeout_s, connect=CONNECT_TIMEOUT_S)
        trust_env = not is_loopback(self.url.host)
        return httpx.Client(base_url=self.url, headers=self._headers, timeout=timeout, trust_env=trust_env)

    def _try(
        self,
        http: httpx.Client,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        progress: ProgressTold | None,
    ) -> httpx.Response | dict[str, Any]:
        """The response, or what a stream of events has come to."""
        headers = {"x-progress": "true"} if progress else {}
        try:
            with http.stream(method, path, json=body, headers=headers) as response:
                if progress and response.headers.get("content-type", "").startswith("text/event-stream"):
                    return self._streamed(response, progress)
                response.read()
                return response
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise Unreachable(f"no server answers at {self.url}; `retouch serve` starts one") from None
        except httpx.TimeoutException:
            raise Unreachable(f"the server at {self.url} did not answer within {self._timeout_s:g} s") from None
        except httpx.RequestError as error:
            raise Unreachable(f"the connection to {self.url} broke off: {error}") from None

    def _streamed(self, response: httpx.Response, progress: ProgressTold) -> dict[str, Any]:
        """The events as a plain answer would tell them."""
        steps: dict[int, int] = {}
        data: list[dict[str, Any]] = []
        for event in EventSource(response).iter_sse():
            told = event.json()
            if event.event == "image_edit.progress":
                steps[told["image_index"]] = told["step"]
                progress(sum(steps.values()), told["total"])
            elif event.event == "image_edit.completed":
                data.append(told)
            elif event.event == "error":
                raise Refused(_error_message(told) or "the server failed")
        if not data:
            raise Unreachable(f"the connection to {self.url} broke off before the edit was done")
        return {"data": data, "model": data[0].get("model", ""), "size": data[0].get("size", "")}

    def _answer(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if response.is_success and isinstance(answer, dict):
            return answer
        message = _error_message(answer)
        if response.is_success or not message:
            raise self._not_this_api(response.status_code)
        raise Refused(message)

    def _not_this_api(self, status: int = 200) -> Refused:
        return Refused(f"what answers at {self.url} is no Retouch server: its answer ({status}) is not the API's")


def _base_url(url: str) -> httpx.URL:
    """The server's root. Raises ValueError with a sentence."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is no URL of a server; it reads like http://127.0.0.1:8000")
    path = parsed.path.rstrip("/").removesuffix("/v1")
    return parsed.copy_with(path=path, query=None, fragment=None)


def is_loopback(host: str) -> bool:
    """Whether only this machine is meant: a proxy for the outside must not be asked for it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _picture(item: Mapping[str, Any]) -> EditedPicture:
    seed = item.get("seed")
    return EditedPicture(base64.b64decode(item["b64_json"], validate=True), seed if isinstance(seed, int) else None)


def _error_message(answer: object) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return " ".join(message.split()) if isinstance(message, str) else ""


def _asked_wait_s(response: httpx.Response) -> float | None:
    """Seconds after which the request may be sent again; None when sending it again cannot help."""
    if response.status_code not in (429, 500, 503):
        return None
    should_retry = response.headers.get("x-should-retry", str(response.status_code == 429).lower())
    return _retry_after_s(response.headers.get("retry-after", "1")) if should_retry == "true" else None


def _retry_after_s(value: str) -> float:
    """`retry-after` is a number of seconds or a date (RFC 9110, section 10.2.3)."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return 1.0
