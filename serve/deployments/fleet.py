"""The figures of every process of the application, gathered by whichever of them is asked."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle

from serve.deployments.broadcast import ask_all
from serve.deployments.engines import Engines
from serve.metrics import Told
from serve.settings import ModelSettings


class Fleet:
    """For a replica of the deployment that speaks HTTP: its own counterparts are asked as well."""

    def __init__(
        self, engines: Engines, editors: Mapping[str, DeploymentHandle[Any]], codec: DeploymentHandle[Any]
    ) -> None:
        context = ray_serve.get_replica_context()
        self._own = ray_serve.get_deployment_handle(context.deployment, context.app_name)
        self._engines = engines
        self._editors = editors
        self._codec = codec

    async def told(self, models: Sequence[ModelSettings]) -> Told:
        requests, codec, engines = await asyncio.gather(
            ask_all(self._own, "figures"), ask_all(self._codec, "figures"), self._engines.heard()
        )
        silent = {(self._own.deployment_name, ""): requests.silent, (self._codec.deployment_name, ""): codec.silent}
        silent |= {(self._editors[model].deployment_name, model): heard.silent for model, heard in engines.items()}
        return Told(
            requests=requests.answers,
            codec=codec.answers,
            engines={model: heard.answers for model, heard in engines.items()},
            least={model.id: model.replicas.min for model in models},
            silent=silent,
        )
