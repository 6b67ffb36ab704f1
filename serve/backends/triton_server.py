"""The connection to one Triton Inference Server: its calls, and what their failures mean here."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from serve.backends.triton_words import SharedKind, calls
from serve.errors import BackendUnavailable, ConfigurationError, DeviceOutOfMemory
from serve.settings import TritonSettings

log = logging.getLogger(__name__)

START_TIMEOUT_S = 30.0
"""How long a start waits for a server that starts at the same time."""
CHECK_TIMEOUT_S = 2.0
RETRY_AFTER_S = 5.0
"""About what a server takes to come back with small models."""
_CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that is back is found within a second; by default a channel waits up to two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)
_GONE = ("is not healthy", "unknown model")
"""Of a model whose process has died, or which is not loaded at the moment."""
_NO_MEMORY = ("out of memory", "failed to allocate memory", "bad allocation", "bad_alloc")


class Refused(Exception):
    """The server answered a call with an error of its own. code: of gRPC. The text is what the server said."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code


class TritonServer:
    """Every method raises BackendUnavailable where the server is away or does not answer in time, and Refused.

    The synchronous stubs: the engine's thread makes one call after the other and has nothing to do meanwhile, so an
    event loop would only add a thread and two changes of threads to each step. `check` may be called from any thread.
    The channel connects again by itself.
    """

    def __init__(self, settings: TritonSettings) -> None:
        self.address = settings.address
        self._timeout_s = settings.timeout_s
        self._channel = grpc.insecure_channel(settings.address, options=_CHANNEL)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def await_version(self) -> str:
        """Waits for the server. Raises ConfigurationError: it does not come."""
        try:
            return self._version(wait=False)
        except BackendUnavailable:
            log.info("waiting up to %g s for the Triton server at %s", START_TIMEOUT_S, self.address)
        try:
            return self._version(wait=True)
        except BackendUnavailable:
            raise ConfigurationError(
                f"no Triton server answers at {self.address} (triton.address) within {START_TIMEOUT_S:g} s; start it, "
                "or correct the address"
            ) from None

    def configurations(self, prefix: str) -> dict[str, Any]:
        """A `ModelConfig` of each model that is ready and whose name begins so, by the rest of its name."""
        index = self._call("RepositoryIndex", calls.RepositoryIndexRequest(ready=True))
        names = {model.name for model in index.models if model.name.startswith(prefix)}
        asked = {name: self._call("ModelConfig", calls.ModelConfigRequest(name=name)) for name in sorted(names)}
        return {name.removeprefix(prefix): answer.config for name, answer in asked.items()}

    def check(self, models: Iterable[str]) -> None:
        """Raises BackendUnavailable: it is away, or does not run one of these. Other models are no concern: the
        server's own readiness would be that of all of them. Triton 2.51 calls a model ready whose Python process has
        died; that a call tells."""
        self._call("ServerLive", calls.ServerLiveRequest(), CHECK_TIMEOUT_S)
        for name in models:
            try:
                ready = self._call("ModelReady", calls.ModelReadyRequest(name=name), CHECK_TIMEOUT_S).ready
            except Refused:  # it does not know the model any more
                ready = False
            if not ready:
                raise _not_run(name)

    def infer(self, request: Any) -> Any:
        """request: a `ModelInferRequest`. Raises also DeviceOutOfMemory."""
        try:
            return self._call("ModelInfer", request)
        except Refused as error:
            if any(sign in str(error).lower() for sign in _NO_MEMORY):
                raise DeviceOutOfMemory(f"{request.model_name} ran out of memory on the Triton server") from error
            if any(sign in str(error) for sign in _GONE):
                log.warning("%s at %s: %s", request.model_name, self.address, error)
                raise _not_run(request.model_name) from error
            raise

    def register(self, kind: SharedKind, name: str, region: Mapping[str, Any]) -> None:
        """Let the server open shared memory. region: the fields of the request that describe it."""
        message = getattr(calls, f"{kind}SharedMemoryRegisterRequest")
        self._call(f"{kind}SharedMemoryRegister", message(name=name, **region))

    def regions(self, kind: SharedKind) -> list[str]:
        """The names of all shared memory that the server has open, whoever registered it."""
        message = getattr(calls, f"{kind}SharedMemoryStatusRequest")
        return list(self._call(f"{kind}SharedMemoryStatus", message()).regions)

    def unregister(self, kind: SharedKind, name: str) -> None:
        message = getattr(calls, f"{kind}SharedMemoryUnregisterRequest")
        self._call(f"{kind}SharedMemoryUnregister", message(name=name), CHECK_TIMEOUT_S)

    def _version(self, *, wait: bool) -> str:
        timeout_s = START_TIMEOUT_S if wait else CHECK_TIMEOUT_S
        return self._call("ServerMetadata", calls.ServerMetadataRequest(), timeout_s, wait=wait).version

    def _call(self, method: str, request: Any, timeout_s: float | None = None, *, wait: bool = False) -> Any:
        """wait: for a connection, where there is none."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            return getattr(self._stub, method)(request, timeout=limit_s, wait_for_ready=wait)
        except grpc.RpcError as error:
            raise self._failure(error, method, limit_s) from error

    def _failure(self, error: Any, method: str, limit_s: float) -> Exception:
        """error: a call's outcome, which has code and details though its class has not."""
        code, details = error.code(), error.details() or ""
        if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
            return Refused(code, details)
        log.warning("%s of Triton at %s failed: %s, %s", method, self.address, code.name, details)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            reason = f"did not answer within {limit_s:g} s"
        else:
            reason = "cannot be reached"
        return BackendUnavailable(f"the Triton server {reason}; try again", retry_after_s=RETRY_AFTER_S)


def _not_run(model: str) -> BackendUnavailable:
    message = f"the Triton server does not run {model} at the moment; try again"
    return BackendUnavailable(message, retry_after_s=RETRY_AFTER_S)
