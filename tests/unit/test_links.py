"""Links to pictures: fetched from hosts that are allowed, by the address that was checked, within their bounds."""

import asyncio
import base64
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import pytest
import trustme
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from serve.errors import ImageTooLarge, InvalidRequest
from serve.links import MOST_REDIRECTS, Links, PublicOnly, is_public
from serve.schema import EditRequest
from serve.settings import LinkSettings

HOST = "pictures.example"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
MAX_BYTES = 1000


class Names(AbstractResolver):
    """Every name of `addresses` is at its address; asked: which names were looked up."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if host not in self._addresses:
            raise OSError(f"no such name: {host}")
        address = self._addresses[host]
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def site(hosts: tuple[str, ...] = (HOST,), timeout_s: float = 5.0) -> AsyncGenerator[tuple[Links, str]]:
    """A site on this machine, with a certificate of its own for HOST, and who fetches from it."""
    authority = trustme.CA()
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(HOST).configure_cert(serving)
    authority.configure_trust(trusting)
    app = web.Application()
    app.router.add_get("/a.png", _picture)
    app.router.add_get("/large.png", _large)
    app.router.add_get("/endless.png", _endless)
    app.router.add_get("/slow.png", _slow)
    app.router.add_get("/to", _redirected)
    app.router.add_get("/loop", _redirected)
    app.router.add_get("/nowhere", _nowhere)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    listening = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=serving)
    await listening.start()
    port = runner.addresses[0][1]
    settings = LinkSettings(hosts=tuple(f"{host}:{port}" for host in hosts), timeout_s=timeout_s)
    links = Links(settings, MAX_BYTES, Names({HOST: "127.0.0.1", "other.example": "127.0.0.1"}), trusting)
    try:
        yield links, f"https://{HOST}:{port}"
    finally:
        await links.close()
        await runner.cleanup()


async def _picture(request: web.Request) -> web.Response:
    return web.Response(body=PNG)


async def _large(request: web.Request) -> web.Response:
    return web.Response(body=bytes(MAX_BYTES + 1))


async def _redirected(request: web.Request) -> web.Response:
    return web.Response(status=307, headers={"location": request.query.get("url", "/loop")})


async def _nowhere(request: web.Request) -> web.Response:
    return web.Response(status=302)


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1000):
        await response.write(bytes(MAX_BYTES))
    return response


async def _slow(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response(body=PNG)


def edit(*images: str | bytes, mask: str | None = None) -> EditRequest:
    return EditRequest.model_validate({"images": list(images), "prompt": "x", "mask": mask})


async def refused(links: Links, url: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await links.fetched(edit("aGk=", url))
    assert caught.value.param == "images[1]"
    return caught.value


async def test_links_are_replaced_by_what_they_lead_to_and_nothing_else_is():
    async with site() as (links, url):
        request = await links.fetched(edit("aGk=", f"{url}/a.png", b"file", mask=f"{url}/a.png"))
    assert (request.images, request.mask, request.prompt) == (["aGk=", PNG, b"file"], PNG, "x")


async def test_a_request_without_links_is_left_as_it_is():
    links, request = Links(LinkSettings(), MAX_BYTES), edit("aGk=", base64.b64encode(PNG).decode())
    assert await links.fetched(request) is request


async def test_where_no_host_is_allowed_every_link_is_refused():
    assert "this server fetches none" in (await refused(Links(LinkSettings(), MAX_BYTES), "https://a.example/")).message


@pytest.mark.parametrize(
    "url", ["https://other.example", "https://pictures.example.other.example", "https://127.0.0.1"]
)
async def test_only_hosts_of_the_list_are_asked(url: str):
    async with site() as (links, place):
        port = place.rpartition(":")[2]
        assert "not among the hosts" in (await refused(links, f"{url}:{port}/a.png")).message


async def test_a_host_is_allowed_at_its_port_alone():
    async with site() as (links, _):
        assert "not among the hosts" in (await refused(links, f"https://{HOST}/a.png")).message


async def test_a_star_stands_for_what_is_below_a_name():
    async with site(("*.example",)) as (links, url):
        assert (await links.fetched(edit(f"{url}/a.png"))).images == [PNG]
    async with site((f"*.{HOST}",)) as (links, url):
        await refused(links, f"{url}/a.png")


async def test_a_redirect_is_followed_where_it_leads_to_an_allowed_host():
    async with site() as (links, url):
        assert (await links.fetched(edit(f"{url}/to?url=/a.png"))).images == [PNG]
        assert "not among the hosts" in (await refused(links, f"{url}/to?url=https://other.example/a.png")).message
        assert "no https link" in (await refused(links, f"{url}/to?url=http://{HOST}/a.png")).message
        assert "no https link" in (await refused(links, f"{url}/to?url=file:///etc/passwd")).message
        assert f"more than {MOST_REDIRECTS} times" in (await refused(links, f"{url}/loop")).message
        assert f"more than {MOST_REDIRECTS} times" in (await refused(links, f"{url}/nowhere")).message


@pytest.mark.parametrize("path", ["large.png", "endless.png"])
async def test_no_more_is_read_than_a_picture_may_have(path: str):
    async with site() as (links, url):
        assert isinstance(await refused(links, f"{url}/{path}"), ImageTooLarge)


async def test_a_link_has_only_so_much_time():
    async with site(timeout_s=0.2) as (links, url):
        assert "within 0.2 s" in (await refused(links, f"{url}/slow.png")).message


async def test_what_is_not_there_is_told_by_its_status():
    async with site() as (links, url):
        assert "answered with 404" in (await refused(links, f"{url}/b.png")).message


@pytest.mark.parametrize("rest", ["user@pictures.example/", "user:word@pictures.example/", "/", "[::1/", "a b/"])
async def test_what_is_no_good_link_is_refused(rest: str):
    async with site() as (links, _):
        await refused(links, f"https://{rest}")


async def test_a_certificate_that_is_of_another_host_is_refused():
    async with site(("other.example",)) as (links, url):
        assert "Certificate" in (await refused(links, url.replace(HOST, "other.example") + "/a.png")).message


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b:1::1", "64:ff9b::7f00:1"),
    ],
)
def test_an_address_of_this_network_is_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888"])
def test_an_address_of_the_open_network_is_public(address: str):
    assert is_public(address)


async def test_a_name_that_stands_for_a_private_address_is_not_connected_to():
    """The address is checked where it is looked up for the connection, so that it cannot change in between."""
    async with site() as (_, url):
        port = url.rpartition(":")[2]
        names = Names({HOST: "127.0.0.1"})
        links = Links(LinkSettings(hosts=(f"{HOST}:{port}",)), MAX_BYTES, PublicOnly(names))
        assert (await refused(links, f"{url}/a.png")).message == "images[1] leads to an address that is not public"
        await links.close()
    assert names.asked == [HOST]


async def test_an_address_that_stands_in_the_list_itself_is_not_connected_to_either():
    async with site() as (_, url):
        port = url.rpartition(":")[2]
        links = Links(LinkSettings(hosts=(f"127.0.0.1:{port}",)), MAX_BYTES)
        assert "not public" in (await refused(links, f"https://127.0.0.1:{port}/a.png")).message
        await links.close()


async def test_the_systems_resolver_is_guarded():
    async with site() as (_, url):
        port = url.rpartition(":")[2]
        links = Links(LinkSettings(hosts=(f"localhost:{port}",)), MAX_BYTES)
        assert "not public" in (await refused(links, f"https://localhost:{port}/a.png")).message
        await links.close()
