"""Schemathesis finds nothing that the document does not say: over a server for everybody, and over one with keys."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from serve.auth import create_key
from serve.deployments.description import EDITS_ROUTE
from tests import checkpoints
from tests.deploy.test_retouch_serve import serving
from tests.http.conftest import free_port
from tests.openapi.hooks import FORM, MODEL
from tests.openapi.run import Run, schemathesis

CONFIG = """
models:
  - {{id: {model}, family: flux_kontext, weights: {weights}, backend: simulated, simulated: {{timings: zero}}}}
  - {{id: closed, family: flux_kontext, weights: {weights}, backend: simulated, simulated: {{timings: zero}}}}
storage: {{folder: {folder}/files}}
server: {{cache_folder: {folder}/cache}}
auth: {{keys_file: {keys}}}
"""
JSON = "application/json"
EVENTS = "text/event-stream"
EDIT = f"POST {EDITS_ROUTE}"
READS = (
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /v1/files/{name}",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
)
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "positive_data_acceptance", "missing_required_header"),
    *("unsupported_method", "allow_header_conformance", "use_after_free", "ensure_resource_availability"),
    *("ignored_auth", "object_level_authorization", "a_link_opens", "an_answer_names_its_request"),
)
PER_MINUTE = 12


@dataclass(frozen=True)
class Guarded:
    """A server with keys. ada: may do everything, up to a limit that is far; bob: little, and nothing that draws."""

    url: str
    ada: str
    bob: str


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.flux_kontext(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Generator[str]:
    config = _config(tmp_path_factory.mktemp("open"), weights, "null")
    with serving(port := free_port(), "--config", str(config)):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Generator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys.yaml"
    ada = create_key(keys, "ada", None, {"requests_per_minute": 10**6, "images_per_minute": 10**6})
    bob = create_key(keys, "bob", ("closed",), {"requests_per_minute": PER_MINUTE})
    with serving(port := free_port(), "--config", str(_config(folder, weights, str(keys)))):
        yield Guarded(f"http://127.0.0.1:{port}", ada, bob)


def _config(folder: Path, weights: Path, keys: str) -> Path:
    file = folder / "retouch.yaml"
    file.write_text(CONFIG.format(model=MODEL, weights=weights, folder=folder, keys=keys))
    return file


def _passed(run: Run) -> None:
    assert run.exit_code == 0, run.output


@pytest.fixture(scope="module")
def run(open_server: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return schemathesis(open_server, tmp_path_factory.mktemp("run"), "--max-examples", "100")


def test_nothing_is_undocumented_and_no_verdict_is_another_than_the_documents(run: Run) -> None:
    _passed(run)


def test_every_check_was_made_of_most_cases(run: Run) -> None:
    assert set(run.checks) == set(CHECKS)
    assert min(run.checks.values()) > 0.9 * sum(run.cases.values())


def test_every_phase_sent_edits_that_were_drawn_and_ones_that_were_refused(run: Run) -> None:
    assert run.count(phase="examples", operation=EDIT, mode="positive", status=200) >= 1
    for phase, drawn, refused in (("coverage", 10, 250), ("fuzzing", 50, 5), ("stateful", 50, 5)):
        assert run.count(phase=phase, operation=EDIT, mode="positive", status=200) >= drawn
        assert run.count(phase=phase, operation=EDIT, mode="negative", status=400) >= refused
        for sent in (JSON, FORM):
            assert run.count(phase=phase, operation=EDIT, mode="positive", sent=sent, status=200) >= 1
            assert run.count(phase=phase, operation=EDIT, mode="negative", sent=sent, status=400) >= 1
    for sent in (JSON, FORM):
        assert run.count(operation=EDIT, sent=sent, answered=EVENTS, status=200) >= 10


def test_no_invalid_edit_is_accepted_in_a_run_of_nothing_else(open_server: str, tmp_path: Path) -> None:
    options = ("--max-examples", "60", "--phases", "fuzzing", "--mode", "negative", "--include-path", EDITS_ROUTE)
    run = schemathesis(open_server, tmp_path, *options)
    _passed(run)
    assert run.count(operation=EDIT, mode="negative", status=400) >= 20


def test_every_route_was_read_and_links_were_followed(run: Run) -> None:
    for operation in READS:
        assert run.count(operation=operation) >= 2
        assert run.count(operation=operation, status=200) >= 1
    assert run.count(phase="stateful", operation="GET /v1/files/{name}", status=200) >= 10
    assert run.count(phase="stateful", operation="GET /v1/models/{name}", status=200) >= 10


def test_no_method_but_the_documents_was_allowed(run: Run) -> None:
    for operation in (EDIT, *READS):
        path = operation.partition(" ")[2]
        others = {case.operation for case in run.cases if case.operation.endswith(f" {path}") and case.status == 405}
        assert len(others) >= 6


def test_a_server_with_keys_asks_for_one_and_counts(guarded: Guarded, tmp_path: Path) -> None:
    run = schemathesis(guarded.url, tmp_path, "--max-examples", "15", key=guarded.ada)
    _passed(run)
    assert run.count(operation=EDIT, status=200) >= 30
    assert run.count(operation=EDIT, status=401) >= 1
    assert run.count(operation="GET /v1/models", status=401) >= 1


def test_a_key_that_may_do_little_is_refused_as_the_document_says(guarded: Guarded, tmp_path: Path) -> None:
    """What is valid and what is not is no question here."""
    run = schemathesis(
        guarded.url,
        tmp_path,
        *("--max-examples", "30", "--phases", "fuzzing", "--mode", "positive"),
        *("--include-path", EDITS_ROUTE, "--exclude-checks", "positive_data_acceptance"),
        key=guarded.bob,
    )
    _passed(run)
    assert run.count(operation=EDIT, status=403) >= 1
    assert run.count(operation=EDIT, status=429) >= 1


@pytest.mark.parametrize("needs_key", [False, True])
def test_the_document_is_openapi_3_1(open_server: str, guarded: Guarded, needs_key: bool) -> None:
    document = httpx.get(f"{guarded.url if needs_key else open_server}/openapi.json").json()
    assert document["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    assert ("securitySchemes" in document["components"]) == needs_key
