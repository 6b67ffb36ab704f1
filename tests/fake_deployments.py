"""Deployments in this process, for who calls them: handles whose methods are plain functions."""

import inspect
from collections.abc import AsyncIterator, Callable, Generator
from types import SimpleNamespace
from typing import Any, cast

from ray.serve.handle import DeploymentHandle


class _Call:
    """answer: what awaiting it gives, what it raises, or the generator that it tells."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def __await__(self) -> Generator[Any, Any, Any]:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer
        yield

    def __aiter__(self) -> AsyncIterator[Any]:
        assert inspect.isasyncgen(self._answer)
        return self._answer

    async def _fetch_future_result_async(self) -> object:
        return object()

    def cancel(self) -> None:
        pass


def deployed(**methods: Callable[..., object]) -> DeploymentHandle[Any]:
    """A handle. methods: by their names; an exception that one returns is what its call fails with."""
    handle = SimpleNamespace(app_name="retouch", deployment_name="fake", options=lambda **_: handle)
    for name, method in methods.items():
        setattr(handle, name, SimpleNamespace(remote=_remote(method)))
    return cast("DeploymentHandle[Any]", handle)


def _remote(method: Callable[..., object]) -> Callable[..., _Call]:
    return lambda *args: _Call(method(*args))
