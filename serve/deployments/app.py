"""The Ray Serve application, bound from the configuration, and its life on one machine.

On any Ray cluster `serve run serve.deployments.app:build config=retouch.yaml` deploys the same application, as does a
Serve config file whose `args` hold `config` or the configuration's own keys. `serve build` writes such a file for
`serve.deployments.app:configured`, the application of the file that RETOUCH_CONFIG names.
"""

import asyncio
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve as ray_serve
from ray.serve.config import HTTPOptions, RequestRouterConfig
from ray.serve.schema import ApplicationStatus, LoggingConfig

from serve.deployments import heap, proxy
from serve.deployments.autoscaling import autoscaling
from serve.deployments.broadcast import ask_all
from serve.deployments.codec import Codec
from serve.deployments.editor import Editor
from serve.deployments.ingress import Ingress
from serve.deployments.quotas import Quotas
from serve.deployments.runs import Runs
from serve.errors import ConfigurationError
from serve.families import facts_of
from serve.settings import (
    ModelSettings,
    Settings,
    load,
    object_store_bytes,
    refuse_missing_gpus,
    refuse_open_server,
    sends_traces,
)
from serve.storage import open_storage

logger = logging.getLogger(__name__)
APPLICATION = "retouch"
INGRESS = "ingress"
INGRESS_CPUS = 0.25
CODEC_CPUS = 0.5
SINGLE_CPUS = 0.1
SINGLES = 2
HEALTH_CHECK_S = 2.0
"""Ray Serve replaces a replica that fails three checks in a row."""
STOP_MARGIN_S = 10.0
LONGEST_COMPILATION_S = 600.0
"""That the first step of a kind may wait for."""
DRAIN_LOOK_S = 0.2
NEVER_S = 1e9
"""Ray Serve's controller has no use for what an editor tells of itself; whoever has asks it."""
CLUSTERS = {frozenset({"host", "port"}): "http_options", frozenset({"log_format"}): "logging_config"}
"""Keys of our section `server`, and where a Serve config has them."""
ONE_MORE = 1
"""Percent, which Ray Serve rounds up to a replica: given another configuration it starts one before it stops one, and
what cannot start ends nothing that serves."""


def application(settings: Settings) -> ray_serve.Application:
    """The deployments, bound: Ingress -> Codec, one Editor a model, and what is counted in one place.

    Raises ConfigurationError.
    """
    sends_traces(os.environ)  # It raises, before a replica does.
    facts = {model.id: facts_of(model) for model in settings.models}
    in_flight = settings.limits.requests_in_flight
    codec = ray_serve.deployment(
        name="codec",
        num_replicas=settings.server.codec_replicas,
        max_surge_percent=ONE_MORE,
        max_ongoing_requests=in_flight,
        graceful_shutdown_timeout_s=_grace_s(settings),
        ray_actor_options={"num_cpus": CODEC_CPUS},
    )(Codec).bind(settings, facts)
    ingress = ray_serve.deployment(
        name=INGRESS,
        num_replicas=settings.server.ingress_replicas,
        max_surge_percent=ONE_MORE,
        max_ongoing_requests=2 * in_flight,
        graceful_shutdown_timeout_s=_grace_s(settings),
        ray_actor_options={"num_cpus": INGRESS_CPUS},
    )(Ingress)
    editors = {model.id: _editor(model, settings) for model in settings.models}
    runs = _single("runs", settings)(Runs).bind(settings, codec, editors)
    quotas = _single("quotas", settings)(Quotas).bind(settings.server.log_level) if settings.auth.keys_file else None
    return ingress.bind(settings, facts, codec, editors, runs, quotas)


def build(args: dict[str, Any]) -> ray_serve.Application:
    """Ray Serve's application builder. args: `config`, the path of a YAML file, or the configuration's keys."""
    path = args.pop("config", None)
    settings = load(Path(path) if path else None, args)
    for keys, whose in CLUSTERS.items():
        if settings.server.model_fields_set & keys:
            named = " and ".join(f"server.{key}" for key in sorted(keys))
            logger.warning("%s: Ray Serve's to set on a cluster (%s); not used", named, whose)
    refuse_open_server(settings, "")
    return application(settings)


def __getattr__(name: str) -> ray_serve.Application:
    """`configured`, made when it is asked for, so that importing this module reads no configuration."""
    if name == "configured":
        settings = load()
        refuse_open_server(settings, "")
        return application(settings)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def start(settings: Settings) -> None:
    """Start Ray on this machine and run the application until every model is ready.

    Raises ConfigurationError when a model cannot be loaded, or the store of results not be used.
    """
    refuse_open_server(settings, settings.server.host)
    open_storage(settings.storage).check()
    app = application(settings)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("MALLOC_ARENA_MAX", heap.ARENAS)
    proxy.install()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(
        address="local",
        num_cpus=_cpus(settings),
        include_dashboard=False,
        object_store_memory=object_store_bytes(settings),
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    refuse_missing_gpus(settings, ray.cluster_resources().get("GPU", 0))
    server = settings.server
    encoding = server.log_format.upper()
    logging_config = LoggingConfig(encoding=encoding, log_level=server.log_level, enable_access_log=False)
    ray_serve.start(http_options=HTTPOptions(host=server.host, port=server.port), logging_config=logging_config)
    try:
        ray_serve.run(app, name=APPLICATION, route_prefix="/", logging_config=logging_config)
    except RuntimeError as error:
        raise ConfigurationError(_why_deployment_failed(error)) from None


def stop(within_s: float = 0.0) -> None:
    """End the application and the Ray that `start` started, with all their processes; before that, edits that were
    begun, as far as they end within that time."""
    if ray.is_initialized():
        if within_s:
            asyncio.run(_drained(within_s))
        ray_serve.shutdown()
        ray.shutdown()


async def _drained(within_s: float) -> None:
    """Once every replica that takes edits has said that none is under way: one that is silent may have some. Ray Serve
    would end first what their next steps need."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s and _takes_edits():
        heard = await ask_all(ray_serve.get_deployment_handle(INGRESS, APPLICATION), "drain")
        if heard.answers and not heard.silent and not any(heard.answers):
            return
        await asyncio.sleep(DRAIN_LOOK_S)


def _takes_edits() -> bool:
    """Not where the application is gone, or has never come up."""
    application = ray_serve.status().applications.get(APPLICATION)
    return (
        application is not None
        and application.status != ApplicationStatus.DEPLOY_FAILED
        and INGRESS in application.deployments
    )


def _editor(model: ModelSettings, settings: Settings) -> ray_serve.Application:
    return ray_serve.deployment(
        name="editor-" + re.sub(r"[^A-Za-z0-9]+", "-", model.id).lower(),
        **_scale(model, settings),
        max_surge_percent=0
        if model.num_gpus
        else ONE_MORE,  # there is seldom a GPU to spare, and it would wait for one
        request_router_config=RequestRouterConfig(request_routing_stats_period_s=NEVER_S),  # pyright: ignore[reportArgumentType]
        health_check_period_s=HEALTH_CHECK_S,
        graceful_shutdown_timeout_s=_grace_s(settings),
        ray_actor_options={"num_cpus": model.num_cpus, "num_gpus": model.num_gpus},
    )(Editor).bind(
        model,
        settings.server.cache_folder,
        settings.server.log_level,
        max(settings.limits.request_timeout_s, LONGEST_COMPILATION_S),
    )


def _scale(model: ModelSettings, settings: Settings) -> dict[str, Any]:
    """A request stays with the replica that it was given to. So where replicas come and go, each is given what keeps
    its batches full, and what is beyond that waits for the one that has a place first, be it one that is yet to come.
    """
    if model.replicas.fixed:
        return {"num_replicas": model.replicas.max, "max_ongoing_requests": settings.limits.requests_in_flight}
    return {"autoscaling_config": autoscaling(model.replicas), "max_ongoing_requests": 2 * model.max_batch}


def _single(name: str, settings: Settings) -> Any:
    """A deployment of one replica, for what has to be in one place."""
    return ray_serve.deployment(
        name=name,
        num_replicas=1,
        max_surge_percent=ONE_MORE,
        max_ongoing_requests=2 * settings.limits.requests_in_flight * settings.server.ingress_replicas,
        health_check_period_s=HEALTH_CHECK_S,
        graceful_shutdown_timeout_s=_grace_s(settings),
        ray_actor_options={"num_cpus": SINGLE_CPUS},
    )


def _grace_s(settings: Settings) -> float:
    """How long a replica that is to stop may finish what it has: a rollout cuts no request."""
    return settings.limits.request_timeout_s + STOP_MARGIN_S


def _cpus(settings: Settings) -> int:
    """Logical CPUs that hold every replica: on one machine all of them share what there is."""
    models = sum(model.replicas.max * model.num_cpus for model in settings.models)
    front = settings.server.ingress_replicas * INGRESS_CPUS + settings.server.codec_replicas * CODEC_CPUS
    front += SINGLES * SINGLE_CPUS
    return max(os.cpu_count() or 1, int(models + front) + 1)


def _why_deployment_failed(error: RuntimeError) -> str:
    """Ray tells a failed constructor as text with a traceback in it; the last line that names our error says why."""
    deployments = ray_serve.status().applications[APPLICATION].deployments.values()
    told = "\n".join(deployment.message for deployment in deployments)
    reasons = re.findall(r"ConfigurationError: (.+)", told)
    return reasons[-1].strip() if reasons else f"the application did not start: {error} {told}".strip()
