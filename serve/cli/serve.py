"""`retouch serve`: the server in the foreground, from its configuration to its last process."""

import errno
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve.cli.console import Exit, Failure
from serve.cli.supervise import supervise
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from serve.settings import ServerSettings, Settings

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
LOGS = "/tmp/ray/session_latest/logs/serve"
PROMPT = "make it black and white"


def serve(
    config: Annotated[Path | None, typer.Option(show_default="the model that comes along", help="A YAML file.")] = None,
    host: Annotated[str | None, typer.Option(show_default="127.0.0.1", help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(show_default="8000", help="The port to listen on.")] = None,
) -> None:
    """Start the server; Ctrl-C or SIGTERM stops it, once the edits that it has begun are done."""
    try:
        settings = _settings(config, host, port)
    except ConfigurationError as error:
        raise Failure(str(error), Exit.USAGE) from None
    check_free(settings.server)
    _run(settings)


def _settings(config: Path | None, host: str | None, port: int | None) -> "Settings":
    from serve.settings import load  # noqa: PLC0415  # Here, for the commands that are done before it is loaded.

    asked = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = load(config, {"server": asked} if asked else None)
    for name, value in asked.items():
        if getattr(settings.server, name) != value:
            raise ConfigurationError(f"--{name} {value} and the variable RETOUCH_SERVER__{name.upper()} disagree")
    return settings


def check_free(server: "ServerSettings") -> None:
    """Raises Failure when the server could not listen there; Ray would say so after half a minute."""
    where = f"port {server.port} of {server.host}"
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise Failure(f"{server.host} is no address of this machine: {error.strerror}", Exit.ADDRESS) from None
    family, _, _, _, address = found[0]
    try:
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        raise Failure(_unusable(where, error), Exit.ADDRESS) from None


def _unusable(where: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{where} is taken; stop what listens there, or choose another with --port"
    return f"{where} cannot be listened on: {os.strerror(error.errno or 0)}"


def _run(settings: "Settings") -> None:
    models = ", ".join(model.id for model in settings.models)
    supervise(
        start=lambda: _start(settings),
        stop=lambda: _stop(settings),
        ready=lambda: typer.echo(welcome(settings.server)),
        starting=f"Starting Ray and loading {models}; this takes about half a minute",
    )


def _start(settings: "Settings") -> None:
    from serve.deployments import app  # noqa: PLC0415  # Ray alone takes seconds to import.

    try:
        app.start(settings)
    except ConfigurationError as error:
        raise Failure(str(error), Exit.USAGE) from None


def _stop(settings: "Settings") -> None:
    from serve.deployments import app  # noqa: PLC0415  # As above.

    app.stop(within_s=settings.limits.request_timeout_s)


def welcome(server: "ServerSettings") -> str:
    """One screen: where the server is and what to paste to try it."""
    url = url_of(server)
    picture = shlex.quote(_example())
    elsewhere = "" if url == "http://127.0.0.1:8000" else f" --url {url}"
    return f"""
Retouch is ready. Open {url} in a browser to try it; the API's reference is at {url}/docs.

An edit by the command line:

  {_command()} edit {picture} "{PROMPT}" --size 512x512 -o edited.png{elsewhere}

by curl:

  printf '{{"images": ["%s"], "prompt": "{PROMPT}", "size": "512x512"}}' "$(base64 < {picture} | tr -d '\\n')" |
    curl -s {url}/v1/images/edits -H 'content-type: application/json' -d @-

by Python (the answer holds a link to the edited picture):

  import base64, httpx
  photo = base64.b64encode(open({_example()!r}, "rb").read()).decode()
  body = {{"images": [photo], "prompt": "{PROMPT}", "size": "512x512"}}
  print(httpx.post("{url}/v1/images/edits", json=body, timeout=120).json()["data"][0]["url"])

Its log is in {LOGS}. Ctrl-C stops the server.
"""


def _command() -> str:
    """As this very command was called, which need not be on the PATH."""
    return shlex.quote(os.path.relpath(sys.argv[0]) if os.sep in sys.argv[0] else "retouch")


def url_of(server: "ServerSettings") -> str:
    """Where a person on this machine reaches it: a wildcard is no address to call."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    return f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"


def _example() -> str:
    pictures = sorted(EXAMPLES.glob("*.png"))
    if not pictures:
        return "photo.png"
    return os.path.relpath(pictures[0]) if pictures[0].is_relative_to(Path.cwd()) else str(pictures[0])
