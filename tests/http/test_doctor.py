"""`retouch doctor` beside a server that runs."""

from serve.cli.doctor import machine, network
from serve.cli.doctor.findings import Verdict, ok
from tests.http.conftest import Server


def test_the_port_is_its_servers_own(server: Server):
    where = f"port {server.settings.server.port} of 127.0.0.1"
    assert list(network.port(server.settings)) == [ok("port", f"a Retouch serves at {where} and is ready")]


def test_what_the_server_has_taken_is_not_missed(server: Server):
    found = [*machine.memory(server.settings), *machine.shared_memory(server.settings)]
    assert {one.verdict for one in found} == {Verdict.OK}
