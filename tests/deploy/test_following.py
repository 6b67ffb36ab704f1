"""One request followed through all processes of a server with keys: by its id in their logs, and as a trace.

The server stops before anything is looked at, so that what it had not sent by then was sent at its end.
"""

import json
import re
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from serve.auth import create_key
from tests import checkpoints
from tests.collector import Collector, Span, collecting
from tests.deploy.test_retouch_serve import serving
from tests.http.api import EDITS, SOURCE, canvas_request, drawing_request
from tests.http.conftest import free_port
from tests.http.processes import session_folder
from tests.waiting import eventually

CONFIG = """
models:
  - {{id: main, family: flux_kontext, weights: {folder}/main, backend: simulated, max_batch: 4, profile_s: 0}}
  - {{id: broken, family: pixel_edit, weights: {folder}/broken, profile_s: 0}}
server: {{log_format: json}}
auth: {{keys_file: {folder}/keys.yaml}}
"""
PROMPT = "a wish that nobody may read"
STEPS = {"one": 3, "two": 5, "three": 8, "four": 13}
"""Of edits at the same time, by the ids of their requests."""
LEAVERS = [f"leaver-{number}" for number in range(6)]
INGRESS, CODEC, EDITOR, BROKEN = (f"retouch_{name}" for name in ("ingress", "codec", "editor-main", "editor-broken"))
EVENTS = {"prepared", "drawn", "finished", "answered", "refused", "client_left", "request"}
"""First words of lines."""

SERVER_KIND = 2
"""Of a span, as OTLP numbers it."""

Line = dict[str, Any]


@dataclass(frozen=True)
class Followed:
    """What was asked of a server that has stopped since. answers: by the request's id. logs: the folder."""

    key: str
    answers: dict[str, httpx.Response]
    logs: Path
    collector: Collector

    def told(self, request_id: str) -> list[tuple[str, str]]:
        """What the server's own code says of a request in all its processes: deployment and event, once each."""
        lines = [line for line in _lines(self.logs) if line.get("request_id") == request_id]
        return sorted((line["deployment"], event) for line in lines if (event := _event(line)) in EVENTS)

    def line(self, request_id: str, event: str, deployment: str = INGRESS) -> Line:
        """The only one of that kind."""
        (line,) = (
            line
            for line in _lines(self.logs)
            if (line.get("request_id"), _event(line), line.get("deployment")) == (request_id, event, deployment)
        )
        return line

    def trace(self, request_id: str) -> list[Span]:
        (root,) = self.collector.spans(request_id=request_id)
        return self.collector.trace(root.trace_id)


def _traceparent(request_id: str) -> str:
    return f"00-{request_id.encode().hex():0>32}-{'ab' * 8}-01"


def _client(url: str, key: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=120, headers={"authorization": f"Bearer {key}"})


def _ask(client: httpx.Client, request_id: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    told = {"x-request-id": request_id, "traceparent": _traceparent(request_id), **(headers or {})}
    body = drawing_request(**{"prompt": PROMPT, "model": "main", **fields})
    return client.post(EDITS, json=body, headers=told)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Generator[Followed]:
    folder, port = tmp_path_factory.mktemp("followed"), free_port()
    config = folder / "retouch.yaml"
    config.write_text(CONFIG.format(folder=folder))
    checkpoints.flux_kontext(folder / "main")
    _break(checkpoints.pixel_edit(folder / "broken"))
    key = create_key(folder / "keys.yaml", "ada", None, {})
    with pytest.MonkeyPatch.context() as environment, collecting() as collector:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
        with serving(port, "--config", str(config)) as server:
            logs = session_folder(server.pid) / "logs"
            with _client(f"http://127.0.0.1:{port}", key) as client:
                answers = _asked(client, logs)
        yield Followed(key, answers, logs, collector)


def _asked(client: httpx.Client, logs: Path) -> dict[str, httpx.Response]:
    with ThreadPoolExecutor(len(STEPS)) as threads:
        asked = {name: threads.submit(_ask, client, name, num_inference_steps=steps) for name, steps in STEPS.items()}
        answers = {name: one.result() for name, one in asked.items()}
    answers["link"] = _ask(client, "link", response_format="url", n=2)
    answers["linked"] = client.get(answers["link"].json()["data"][0]["url"], headers={"x-request-id": "linked"})
    answers["canvas"] = client.post(EDITS, json=canvas_request(model="main"), headers={"x-request-id": "canvas"})
    for name in ("first", "again"):
        answers[name] = _ask(client, name, {"idempotency-key": "the same"})
    answers["malformed"] = _ask(client, "malformed", images=["xx"])
    answers["stranger"] = _ask(client, "stranger", {"authorization": "Bearer rtk-unknown"})
    answers["nowhere"] = client.get("/nowhere?signature=secret", headers={"x-request-id": "nowhere"})
    answers["broken"] = _ask(client, "broken", model="broken")
    answers["stream"] = _ask(client, "stream", stream=True, partial_images=2, num_inference_steps=6)
    answers["broken stream"] = _ask(client, "broken-stream", model="broken", stream=True)
    for name in LEAVERS:
        _leave(client, name)
    eventually(
        lambda: _lost_clients(logs) >= {(name, deployment) for name in LEAVERS for deployment in (INGRESS, EDITOR)}
    )
    return answers


def _leave(client: httpx.Client, request_id: str) -> None:
    """A stream, after its first step: the rest takes longer than any test."""
    body = drawing_request(prompt=PROMPT, model="main", num_inference_steps=100, n=10, size="1024x1024", stream=True)
    headers = {"x-request-id": request_id, "traceparent": _traceparent(request_id), "x-progress": "true"}
    with client.stream("POST", EDITS, json=body, headers=headers) as stream:
        assert stream.status_code == 200
        next(stream.iter_lines())


def _lines(logs: Path) -> list[Line]:
    """Of all processes. Raises JSONDecodeError."""
    files = [path for path in (logs / "serve").rglob("*.log") if path.stat().st_size]
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def _lost_clients(logs: Path) -> set[tuple[str, str]]:
    """Requests, and the deployments that say that their client left."""
    return {(line["request_id"], line["deployment"]) for line in _lines(logs) if _event(line) == "client_left"}


def _event(line: Line) -> str:
    return line["message"].partition(" ")[0]


def _break(folder: Path) -> None:
    """From now on the model draws what is no number."""
    (weights,) = (folder / "denoiser").glob("*.safetensors")
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(weights).items()}
    save_file(broken, weights, metadata={"format": "pt"})


def test_every_line_of_every_process_is_json(followed: Followed) -> None:
    components = {line["component_name"] for line in _lines(followed.logs)}
    assert {"controller", "proxy", "replica"} <= components


def test_an_edit_is_found_at_every_hop(followed: Followed) -> None:
    for name in (*STEPS, "link", "first", "stream"):
        assert followed.answers[name].status_code == 200
        assert followed.answers[name].headers["x-request-id"] == name
        assert followed.told(name) == [
            (CODEC, "finished"),
            (CODEC, "prepared"),
            (EDITOR, "drawn"),
            (INGRESS, "answered"),
        ]
        for line in (followed.line(name, "answered"), followed.line(name, "drawn", EDITOR)):
            assert (line["model"], line["key"]) == ("main", "ada")
    assert followed.line("link", "answered")["images"] == followed.line("link", "drawn", EDITOR)["rows"] == 2
    assert followed.line("link", "answered")["took_s"] >= followed.line("link", "drawn", EDITOR)["denoise_ms"] / 1000


def test_the_line_of_an_edit_tells_the_times_of_its_answer(followed: Followed) -> None:
    timing = followed.answers["one"].headers["server-timing"]
    line = followed.line("one", "answered")
    told = {name: float(spent) for name, spent in re.findall(r"(\w+);dur=([0-9.]+)", timing)}
    assert {name: line[f"{name}_ms"] for name in told} == told
    assert len(told) == 6


def test_an_answer_given_again_says_so_and_is_drawn_once(followed: Followed) -> None:
    assert followed.answers["again"].content == followed.answers["first"].content
    assert followed.told("again") == [(CODEC, "prepared"), (INGRESS, "answered")]
    assert followed.line("again", "answered")["replayed"] is True
    assert "replayed" not in followed.line("first", "answered")


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("malformed", 400, "invalid_base64"),
        ("stranger", 401, "invalid_api_key"),
        ("nowhere", 404, "not_found"),
        ("broken", 500, "internal_error"),
    ],
)
def test_a_refusal_is_told_once(followed: Followed, name: str, status: int, code: str) -> None:
    assert followed.answers[name].status_code == status
    line = followed.line(name, "refused")
    assert (line["status"], line["code"]) == (status, code)
    assert [told for told in followed.told(name) if told[1] in ("refused", "answered")] == [(INGRESS, "refused")]


@pytest.mark.parametrize("name", ["broken", "broken-stream"])
def test_the_engine_says_why_an_edit_failed(followed: Followed, name: str) -> None:
    line = followed.line(name, "request", BROKEN)
    assert line["message"] == f"request {name} failed"
    assert line["levelname"] == "ERROR"
    assert "NotFinite" in line["exc_text"]


@pytest.mark.parametrize("name", LEAVERS)
def test_a_client_that_leaves_is_told_and_so_is_its_edit(followed: Followed, name: str) -> None:
    assert followed.told(name) == [(CODEC, "prepared"), (EDITOR, "client_left"), (INGRESS, "client_left")]


def test_no_secret_is_in_any_log_or_trace(followed: Followed) -> None:
    link = followed.answers["link"].json()["data"][0]["url"]
    signature = httpx.URL(link).params["signature"]
    assert signature
    secrets = [text.encode() for text in (followed.key, "rtk-unknown", PROMPT, SOURCE[:60], signature, "signature=")]
    files = [path.read_bytes() for path in followed.logs.rglob("*") if path.is_file()]
    assert not [secret for secret in secrets if any(secret in told for told in (*files, *followed.collector.bodies))]
    assert sum(len(told) for told in files) > 0
    assert len(followed.collector.bodies) >= 3


@pytest.mark.parametrize("name", [*STEPS, "link", "first", "stream"])
def test_a_trace_is_one_tree_below_the_caller(followed: Followed, name: str) -> None:
    spans = followed.trace(name)
    (root,) = (span for span in spans if span.kind == SERVER_KIND)
    assert (root.trace_id, root.parent) == tuple(_traceparent(name).split("-")[1:3])
    assert (root.name, root.attributes["http.response.status_code"]) == (f"POST {EDITS}", 200)
    parents = {span.id: span.name for span in spans}
    tree = sorted((span.name, parents.get(span.parent)) for span in spans if span is not root)
    stored = [("store", "finish")] if name == "link" else []
    drawn = [(stage, "edit") for stage in ("denoise", "encode", "queue", "vae")]
    ends = [("png", "finish"), *stored] if name != "stream" else [("preview", root.name)] * 2
    assert tree == sorted([("edit", root.name), ("finish", root.name), ("prepare", root.name), *drawn, *ends])
    assert all(span.started_ns <= span.ended_ns for span in spans)
    assert not any(span.failed for span in spans)
    assert {span.resource["service.name"] for span in spans} == {"retouch"}
    assert {span.resource["retouch.deployment"] for span in spans} == {"ingress", "codec", "editor-main"}


@pytest.mark.parametrize(("name", "steps"), STEPS.items())
def test_a_trace_has_an_event_for_each_step(followed: Followed, name: str, steps: int) -> None:
    (denoise,) = (span for span in followed.trace(name) if span.name == "denoise")
    assert [event.name for event in denoise.events] == ["step"] * steps
    assert all(event.attributes["rows"] == 1 <= event.attributes["batch"] for event in denoise.events)
    (edit,) = (span for span in followed.trace(name) if span.name == "edit")
    # The size is that which the model draws at its smallest.
    told = {"retouch.model": "main", "retouch.size": "512x512", "retouch.steps": steps, "retouch.rows": 1}
    assert told.items() <= edit.attributes.items()


def test_the_log_names_the_trace(followed: Followed) -> None:
    trace_id = _traceparent("one").split("-")[1]
    for event, deployment in (("answered", INGRESS), ("prepared", CODEC), ("drawn", EDITOR), ("finished", CODEC)):
        assert followed.line("one", event, deployment)["trace_id"] == trace_id


def test_a_request_without_a_trace_begins_one(followed: Followed) -> None:
    (root,) = (span for span in followed.trace("canvas") if span.kind == SERVER_KIND)
    assert root.parent == ""
    assert followed.line("canvas", "answered")["trace_id"] == root.trace_id
    assert {span.name for span in followed.trace("canvas")} == {root.name, "prepare", "finish", "png"}


@pytest.mark.parametrize("name", ["broken", "broken-stream"])
def test_a_trace_shows_where_an_edit_failed(followed: Followed, name: str) -> None:
    spans = followed.trace(name)
    assert {span.name for span in spans if span.failed} == {f"POST {EDITS}", "edit"}
    assert {span.attributes.get("error.type") for span in spans if span.failed} == {"internal_error"}


@pytest.mark.parametrize(("name", "error"), [("malformed", "invalid_base64"), (LEAVERS[0], "client_left")])
def test_what_is_the_clients_doing_is_no_failure(followed: Followed, name: str, error: str) -> None:
    spans = followed.trace(name)
    (root,) = (span for span in spans if span.kind == SERVER_KIND)
    assert root.attributes["error.type"] == error
    assert not any(span.failed for span in spans)


def test_a_collector_that_is_away_costs_no_edit(tmp_path: Path) -> None:
    port, nobody = free_port(), free_port()
    config = tmp_path / "retouch.yaml"
    weights = checkpoints.flux_kontext(tmp_path / "main")
    config.write_text(
        f"models: [{{id: main, family: flux_kontext, weights: {weights}, backend: simulated, profile_s: 0}}]"
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{nobody}")
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        environment.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
        environment.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
        with serving(port, "--config", str(config)) as server, _client(f"http://127.0.0.1:{port}", "none") as client:
            assert [_ask(client, f"{number}").status_code for number in range(8)] == [200] * 8
    assert server.returncode == 0
