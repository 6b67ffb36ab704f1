"""The deployment that speaks HTTP: the contract's routes, admission, and the way of one edit through the others."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle

from serve.auth import Principal
from serve.deployments.bodies import BodyBudget
from serve.deployments.calls import RESTART_S, Call, answered, intact, told
from serve.deployments.deadline import Deadline, time_limit_s
from serve.deployments.description import (
    ANYWHERE,
    EDIT_ANSWERS,
    EDIT_HEADERS,
    EDITS_ROUTE,
    FILE_ANSWERS,
    FILE_QUERY,
    LIFE_ANSWERS,
    METRICS_ANSWERS,
    MODEL_ANSWERS,
    MODELS_ANSWERS,
    described,
)
from serve.deployments.door import Door
from serve.deployments.editors import Editors
from serve.deployments.edits import Edits
from serve.deployments.engines import Engines
from serve.deployments.fleet import Fleet
from serve.deployments.followed import Followed, followed
from serve.deployments.heap import return_pictures_at_once
from serve.deployments.http import Edge, install_error_handlers
from serve.deployments.listing import listed
from serve.deployments.logs import adopt_serve_logging, follow
from serve.deployments.messages import Answer, Completed, Happening, Ticket
from serve.deployments.runbook import claim_of, claims, idempotency_key
from serve.deployments.streams import EditStream, StreamResponse, wants_progress
from serve.deployments.tracing import Carrier, Tracing, carrier, trace_id
from serve.deployments.watched import Watching
from serve.deployments.web import PAGE, PLAYGROUND, SWAGGER_UI, WebFiles, reference
from serve.errors import BackendUnavailable, EditError, NotFound
from serve.metrics import CONTENT_TYPE, ProcessFigures, RequestCounts, exposition
from serve.prepare import Origin, refuse_other_models, served_model
from serve.schema import ModelBody, ModelList
from serve.settings import Settings
from serve.storage import open_storage
from serve.types import ModelFacts, QueuePlace

READY_TIMEOUT_S = 5.0

REPLAYED = "idempotent-replayed"
"""A header of an answer that was made for an earlier request."""

api = FastAPI(
    title="Retouch",
    description="Edit pictures by instruction, on your own GPUs.",
    version="1",
    redirect_slashes=False,  # an unknown address is a 404, not a redirect that sends the body twice
    responses=ANYWHERE,
    generate_unique_id_function=lambda route: route.name,
    openapi_url=None,
    docs_url=None,  # FastAPI's own pages fetch their scripts from another host
    redoc_url=None,
)
install_error_handlers(api)
api.add_middleware(Edge)


def _server_timing(answer: Answer) -> str:
    order = ("queue", "decode", "encode", "denoise", "vae", "png")
    return ", ".join(f"{name};dur={answer.timings_ms.get(name, 0.0):.1f}" for name in order)


def _told_of(place: QueuePlace, *, replayed: bool) -> dict[str, str]:
    queue = {"x-queue-position": str(place.position), "x-queue-seconds": f"{place.seconds:.1f}"}
    return queue | ({REPLAYED: "true"} if replayed else {})


def _not_ready(name: str) -> BackendUnavailable:
    return BackendUnavailable(f"{name} is not ready", retry_after_s=RESTART_S)


# Ray copies `api` here, so its handlers see only the names that are defined above.
@ray_serve.ingress(api)  # pyright: ignore[reportUntypedClassDecorator]
class Ingress:
    """Pixels never pass through here: responses are handed on to the next call, and not awaited."""

    def __init__(
        self,
        settings: Settings,
        facts: Mapping[str, ModelFacts],
        codec: DeploymentHandle[Any],
        editors: Mapping[str, DeploymentHandle[Any]],
        runs: DeploymentHandle[Any],
        quotas: DeploymentHandle[Any] | None,
    ) -> None:
        adopt_serve_logging(settings.server.log_level)
        return_pictures_at_once()
        self._tracing = Tracing()
        started = int(time.time())
        self._settings = settings
        self._models = {
            model.id: listed(model, facts[model.id], started)
            for model in sorted(settings.models, key=lambda model: model is not settings.model(""))  # the default first
        }
        self._codec = codec
        self._editors = Editors(editors)
        self._runs = runs
        self._needed = {"codec": codec, "runs": runs, **({"quotas": quotas} if quotas else {})}
        self._steady = tuple(model.id for model in settings.models if model.replicas.min)
        self._edits = Edits(codec, self._editors)
        self._watching = Watching(codec, self._editors)
        self._door = Door(settings.auth, quotas)
        self._store = open_storage(settings.storage)
        self._bodies = BodyBudget(settings.limits)
        self._engines = Engines(editors)
        self._fleet = Fleet(self._engines, editors, codec)
        self._counts = RequestCounts(self._models)
        self._playground = WebFiles(PLAYGROUND)
        self._swagger_ui = WebFiles(SWAGGER_UI)

    @api.post(EDITS_ROUTE, responses=EDIT_ANSWERS, openapi_extra={"parameters": EDIT_HEADERS})
    async def edit(self, request: Request) -> Response:
        """Edit pictures by an instruction, under a mask if one is given."""
        one = self._follow(request)
        principal = self._door.principal(request.headers)
        if principal.name:
            one.know(key=principal.name)
        deadline = Deadline(time_limit_s(request.headers, self._settings.limits.request_timeout_s))
        progress = wants_progress(request.headers)
        async with AsyncExitStack() as held:
            await held.enter_async_context(self._bodies.admit(self._engines.longest_queue_s))
            async with deadline.kept():
                headers = dict(await held.enter_async_context(self._door.request(principal)))
                prepared, ticket = await self._prepare(request, principal, carrier(one.span))
                one.accepted(ticket.model, ticket.images)
                one.note({"caller": json.dumps(ticket.caller)})
                headers |= await held.enter_async_context(self._door.images(principal, ticket.images))
                if ticket.streams:
                    happened = self._watched(prepared, ticket, request, principal, deadline)
                    stream = EditStream(happened, deadline, one, progress=progress)
                    begun = await stream.begin()
                    headers |= _told_of(begun.place, replayed=begun.replayed)
                    one.know(streamed=True)
                    return StreamResponse(stream, held.pop_all(), self._settings.server.keep_alive_s, headers)
                answer, replayed = await self._answer(prepared, ticket, request, principal, deadline)
        one.took(answer.timings_ms, replayed=replayed)
        headers |= {"server-timing": _server_timing(answer), **_told_of(answer.place, replayed=replayed)}
        return Response(answer.body, media_type="application/json", headers=headers)

    @api.get("/v1/models", responses=MODELS_ANSWERS)
    async def models(self, request: Request) -> ModelList:
        """The models that the caller may use, with each one's sizes, defaults and fields."""
        principal = self._door.principal(request.headers)
        usable = [model for model in self._models.values() if principal.may_use((model.id, *model.aliases))]
        return ModelList(data=usable)

    @api.get("/v1/models/{name:path}", responses=MODEL_ANSWERS)
    async def model(self, request: Request, name: str) -> ModelBody:
        """One model, by id or alias."""
        principal = self._door.principal(request.headers)
        if not name:
            raise NotFound("there is nothing at /v1/models/")
        model = served_model(name, self._settings)
        refuse_other_models(principal, model)
        return self._models[model.id]

    @api.get(
        "/v1/files/{name:path}",
        response_class=Response,
        responses=FILE_ANSWERS,
        openapi_extra={"parameters": FILE_QUERY},
    )
    async def file(self, request: Request, name: str) -> Response:
        """A result that was answered by URL."""
        expires, signature = (request.query_params.get(part, "") for part in ("expires", "signature"))
        stored = await asyncio.to_thread(self._store.read, name, expires, signature)
        self._counts.file_sent(len(stored.data))
        left_s = max(0, int(expires) - int(time.time()))
        headers = {"cache-control": f"private, max-age={left_s}, immutable", "x-content-type-options": "nosniff"}
        return Response(stored.data, media_type=stored.media_type, headers=headers)

    @api.get("/", include_in_schema=False)
    async def page(self, request: Request) -> Response:
        """The page to try edits on."""
        return self._playground.answer(PAGE, request)

    @api.get("/playground/{name}", include_in_schema=False)
    async def part_of_page(self, name: str, request: Request) -> Response:
        """What the page consists of."""
        return self._playground.answer(name, request)

    @api.get("/docs", include_in_schema=False)
    async def docs(self) -> Response:
        """The API's reference."""
        return reference(api.title)

    @api.get("/docs/{name}", include_in_schema=False)
    async def part_of_docs(self, name: str, request: Request) -> Response:
        """What the reference consists of."""
        return self._swagger_ui.answer(name, request)

    @api.get("/openapi.json", include_in_schema=False)
    async def description(self, request: Request) -> Response:
        """This API, for programs to read."""
        needs_key = self._settings.auth.keys_file is not None
        prefix = urlsplit(self._settings.server.public_url).path or request.scope["root_path"]
        return JSONResponse(described(request.app, prefix=prefix.rstrip("/"), needs_key=needs_key))

    @api.get("/healthz", responses=LIFE_ANSWERS)
    async def healthz(self) -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @api.get("/readyz", responses=LIFE_ANSWERS)
    async def readyz(self) -> dict[str, str]:
        """Whether every other deployment can do its part; 503 naming the first that cannot, or where the server stops.

        A model that may have no replica is not asked: that would start one.
        """
        self._bodies.refuse_if_closed()
        for name, deployment in self._needed.items():
            try:
                async with asyncio.timeout(READY_TIMEOUT_S):
                    await answered(deployment.ping.remote())
            except (EditError, TimeoutError):
                raise _not_ready(name) from None
        for model in self._steady:
            if not await self._engines.ready(model):
                raise _not_ready(model)
        return {"status": "ready"}

    @api.get("/metrics", response_class=Response, responses=METRICS_ANSWERS)
    async def metrics(self) -> Response:
        """Figures of every process in Prometheus' text form; of those that answer in time."""
        return Response(exposition(await self._fleet.told(self._settings.models)), media_type=CONTENT_TYPE)

    async def figures(self) -> ProcessFigures:
        """What this process has counted."""
        return self._counts.figures(ray_serve.get_replica_context().replica_tag)

    async def drain(self) -> int:
        """Take no more edits; how many have not ended."""
        self._bodies.close()
        return self._bodies.requests

    async def __del__(self) -> None:
        """Ray Serve awaits this once the replica's calls have ended."""
        await self._tracing.close()

    def _follow(self, request: Request) -> Followed:
        one = followed(request)
        one.counted = self._counts.begin()
        one.span = self._tracing.request(request, one.request_id, EDITS_ROUTE)
        follow(one.request_id, trace_id(carrier(one.span)))
        return one

    async def _prepare(self, request: Request, principal: Principal, trace: Carrier) -> tuple[Call, Ticket]:
        key, request_id = idempotency_key(request.headers), followed(request).request_id
        origin = Origin(request_id, principal, claims(request.headers), idempotency_key=key, trace=trace)
        async with self._bodies.read(request) as body:
            prepared = self._codec.prepare.remote(body, origin)
            await intact(prepared)
            return prepared, await answered(self._codec.ticket.remote(prepared), prepared)

    async def _answer(
        self, prepared: Call, ticket: Ticket, request: Request, principal: Principal, deadline: Deadline
    ) -> tuple[Answer, bool]:
        """The answer, and whether it is that of an earlier request which was the same."""
        base_url = (self._settings.server.public_url or str(request.base_url)).rstrip("/")
        if not claims(request.headers):
            return await self._edits.answer(prepared, ticket, base_url, deadline), False
        claim = claim_of(request.headers, principal.name, ticket.fingerprint)
        return await answered(self._runs.answer.remote(claim, prepared, ticket, base_url, deadline.left_s()))

    def _watched(
        self, prepared: Call, ticket: Ticket, request: Request, principal: Principal, deadline: Deadline
    ) -> AsyncGenerator[Happening | Completed]:
        """A stream's client comes back after an answer that had begun, if at all, so that only a key makes it join."""
        if not idempotency_key(request.headers):
            return self._watching.watch(prepared, ticket, deadline)
        claim = claim_of(request.headers, principal.name, ticket.fingerprint)
        return told(self._runs.options(stream=True).watch.remote(claim, prepared, ticket, deadline.left_s()))
