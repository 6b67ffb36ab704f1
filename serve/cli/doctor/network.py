"""The address that the server listens on, and the names that it is to reach."""

import socket
from collections.abc import Iterator, Sequence
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from serve.cli.console import Failure
from serve.cli.doctor.findings import Finding, ok, warning, wrong
from serve.cli.serve import check_free, url_of

if TYPE_CHECKING:
    from serve.settings import ServerSettings, Settings

ANSWER_S = 3.0
READY_S = 7.0
"""A server asks all of its parts before it answers."""
RESOLVE_S = 2.0


def port(settings: "Settings") -> Iterator[Finding]:
    server = settings.server
    where = f"port {server.port} of {server.host}"
    if is_served(server):
        yield _readiness(server, where)
        return
    try:
        check_free(server)
    except Failure as failure:
        found, _, advice = str(failure).partition("; ")
        yield wrong("port", found, advice or "name another by server.host")
    else:
        yield ok("port", f"{where} is free")


def is_served(server: "ServerSettings") -> bool:
    """Whether a Retouch listens there already."""
    answer = _get(f"{url_of(server)}/healthz", ANSWER_S)
    try:
        return answer is not None and answer.status_code == 200 and answer.json() == {"status": "ok"}
    except ValueError:
        return False


def links(settings: "Settings") -> Iterator[Finding]:
    """Whether names in the configuration stand for addresses, as seen from here."""
    hosts = [host.partition(":")[0] for host in settings.links.hosts if not host.startswith("*.")]
    public = urlsplit(settings.server.public_url).hostname
    found = _resolved([*hosts, *([public] if public else [])])
    for host in hosts:
        yield _link_host(host, found.get(host, ()))
    if public and public not in found:
        advice = "correct server.public_url, or the name, if callers cannot resolve it either"
        yield warning("public url", f"{public} stands for no address here", advice)
    elif public:
        yield ok("public url", f"{public} is {', '.join(found[public])}")


def _readiness(server: "ServerSettings", where: str) -> Finding:
    answer = _get(f"{url_of(server)}/readyz", READY_S)
    if answer is not None and answer.status_code == 200:
        return ok("port", f"a Retouch serves at {where} and is ready")
    told = "does not say so in time" if answer is None else _message(answer)
    advice = "if it stays so, see its log: /tmp/ray/session_latest/logs/serve"
    return wrong("port", f"a Retouch serves at {where} and is not ready: {told}", advice)


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"it answers {answer.status_code}"


def _get(url: str, timeout_s: float) -> httpx.Response | None:
    try:
        return httpx.get(url, timeout=timeout_s, trust_env=False)
    except httpx.HTTPError:
        return None


def _link_host(host: str, addresses: Sequence[str]) -> Finding:
    from serve.links import is_public  # noqa: PLC0415

    check = f"link host {host}"
    if not addresses:
        return warning(check, "stands for no address here", "correct links.hosts, or this machine's name servers")
    private = [address for address in addresses if not is_public(address)]
    if private:
        advice = "take it out of links.hosts: private addresses are never fetched from"
        return warning(check, f"is {', '.join(private)}, which is not public", advice)
    return ok(check, f"is {', '.join(addresses)}")


def _resolved(hosts: Sequence[str]) -> dict[str, list[str]]:
    """Addresses by host, of those that have an answer in RESOLVE_S. Asked all at once, by threads that nobody waits
    for: a resolver cannot be told to hurry."""
    found: dict[str, list[str]] = {}

    def ask(host: str) -> None:
        try:
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            return
        found[host] = sorted({str(address[0]) for *_, address in answers})

    threads = [Thread(target=ask, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(RESOLVE_S)
    return dict(found)
