"""How each request for edits ends, and the bytes that it takes: seen from outside of everything that answers it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import EditError, InternalError
from serve.metrics import CLIENT_CLOSED, OK, End, OpenRequest, end_of

_COUNT, _ERROR = "count", "error"
"""Of a request's state."""


def count(scope: Scope, request: OpenRequest) -> None:
    """Have this request counted, once it has ended."""
    scope["state"][_COUNT] = request


def note_error(scope: Scope, error: EditError | None) -> None:
    """What the request was answered with, be it within a stream."""
    scope["state"][_ERROR] = error


class Counted:
    """ASGI layer. A request whose answer was not sent to its end is one whose caller left."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        received = sent = status = 0
        whole = False

        async def count_received() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def count_sent(message: Message) -> None:
            nonlocal sent, status, whole
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
                whole = not message.get("more_body", False)

        state = scope.setdefault("state", {})
        end = CLIENT_CLOSED
        try:
            await self._app(scope, count_received, count_sent)
            end = _end(status, state.get(_ERROR)) if whole else CLIENT_CLOSED
        except Exception:
            end = end_of(InternalError)
            raise
        finally:
            request: OpenRequest | None = state.get(_COUNT)
            if request is not None:
                request.end(end, received, sent)
        return None


def _end(status: int, error: EditError | None) -> End:
    if error is not None:
        return error.status, error.code
    return OK if status < 400 else (status, InternalError.default_code)
