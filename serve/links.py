"""Pictures behind links, fetched where the operator allows it, and from nowhere that only this machine can reach.

A link leads to a host of the allow-list or is refused, and so is every redirect. The addresses that a host's name
stands for are checked where the connection is made, so that no name can change its address in between.
"""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from ssl import SSLContext

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.helpers import is_ip_address
from aiohttp.resolver import DefaultResolver
from yarl import URL

from serve.codec import check_bytes
from serve.errors import InvalidRequest
from serve.schema import EditRequest
from serve.settings import LinkSettings
from serve.types import Picture

SCHEME = "https"
PORT = 443
MOST_REDIRECTS = 3
CONNECTIONS = 32
SHOWN_CHARACTERS = 80
CHUNK_BYTES = 64 * 1024
NAT64 = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
"""A gateway would turn these into IPv4 addresses of any kind (RFC 6052, RFC 8215)."""


class NotPublic(OSError):
    """A name that stands for an address which is not to be reached through this server."""


class PublicOnly(AbstractResolver):
    """Names to addresses, without those that are private, of this machine, or otherwise not of the open network."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not all(is_public(one["host"]) for one in found):
            raise NotPublic(host)
        return found

    async def close(self) -> None:
        await self._resolver.close()


def is_public(address: str) -> bool:
    """Also of the IPv4 address that an IPv6 one may hold."""
    parsed = ip_address(address.partition("%")[0])
    if parsed.version == 6 and any(parsed in network for network in NAT64):
        return False
    inner = (parsed.ipv4_mapped or parsed.sixtofour) if parsed.version == 6 else None
    return parsed.is_global and not parsed.is_multicast and (inner is None or inner.is_global)


class Links:
    """max_bytes: of a picture. resolver, ssl: of the system, unless others are given."""

    def __init__(
        self,
        settings: LinkSettings,
        max_bytes: int,
        resolver: AbstractResolver | None = None,
        ssl: SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._max_bytes = max_bytes
        self._resolver = resolver
        self._ssl = ssl
        self._session: ClientSession | None = None

    async def fetched(self, request: EditRequest) -> EditRequest:
        """The request with the files behind its links in their place. Raises InvalidRequest, naming the link."""
        images = [(f"images[{index}]", image) for index, image in enumerate(request.images)]
        mask = [("mask", request.mask)] if request.mask is not None else []
        if not any(is_link(picture) for _, picture in (*images, *mask)):
            return request
        files = await asyncio.gather(*(self._file(param, picture) for param, picture in (*images, *mask)))
        changes = {"images": files[: len(images)], **({"mask": files[-1]} if mask else {})}
        return request.model_copy(update=changes)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _file(self, param: str, picture: Picture) -> Picture:
        if not isinstance(picture, str) or not is_link(picture):
            return picture
        if not self._settings.hosts:
            raise _refused(param, "is a link, and this server fetches none; send base64 or a data URL")
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._follow(param, picture)
        except TimeoutError:
            raise _refused(param, f"did not arrive within {self._settings.timeout_s:g} s") from None
        except (ClientError, OSError, ValueError) as error:
            if isinstance(getattr(error, "os_error", None), NotPublic):
                raise _refused(param, "leads to an address that is not public") from None
            raise _refused(param, f"cannot be fetched ({type(error).__name__})") from None

    async def _follow(self, param: str, link: str) -> bytes:
        url = URL(link)
        for _ in range(MOST_REDIRECTS + 1):
            self._check(param, url)
            async with self._open().get(url, allow_redirects=False) as response:
                if response.status not in (301, 302, 303, 307, 308):
                    return await self._body(param, response)
                url = url.join(URL(response.headers.get("location", "")))
        raise _refused(param, f"is redirected more than {MOST_REDIRECTS} times")

    def _check(self, param: str, url: URL) -> None:
        if url.scheme != SCHEME or url.user or url.password or not url.host:
            raise _refused(param, f"leads to no {SCHEME} link")
        if not _allowed(url.host, url.port or PORT, self._settings.hosts):
            shown = url.host[:SHOWN_CHARACTERS]
            raise _refused(param, f"leads to {shown}, which is not among the hosts that this server fetches from")
        if is_ip_address(url.host) and not is_public(url.host):
            raise _refused(param, "leads to an address that is not public")

    async def _body(self, param: str, response: ClientResponse) -> bytes:
        if response.status != 200:
            raise _refused(param, f"is answered with {response.status}")
        check_bytes(response.content_length or 0, param, self._max_bytes)
        chunks: list[bytes] = []
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            chunks.append(chunk)
            check_bytes(sum(map(len, chunks)), param, self._max_bytes)
        return b"".join(chunks)

    def _open(self) -> ClientSession:
        """Made in the loop that uses it, when it is first used."""
        if self._session is None:
            resolver = self._resolver or PublicOnly(DefaultResolver())
            connector = TCPConnector(resolver=resolver, limit=CONNECTIONS, ssl=self._ssl or True)
            self._session = ClientSession(
                connector=connector,
                cookie_jar=DummyCookieJar(),
                timeout=ClientTimeout(total=None),
                headers={"accept-encoding": "identity", "user-agent": "retouch"},
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


def is_link(picture: Picture) -> bool:
    return isinstance(picture, str) and picture[:8].lower() == f"{SCHEME}://"


def _allowed(host: str, port: int, hosts: Sequence[str]) -> bool:
    """hosts: names, `*.` before one stands for all below it; with a port where it is another than HTTPS' own."""
    name = host.lower().rstrip(".")
    for allowed in hosts:
        pattern, _, wanted = allowed.lower().partition(":")
        if port != int(wanted or PORT):
            continue
        if name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:])):
            return True
    return False


def _refused(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{param} {why}", param=param)
