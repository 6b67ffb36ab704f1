"""A real S3 that checks signatures: Ceph's object gateway over one monitor and one store in memory, on 127.0.0.1."""

import shutil
import signal
import subprocess
import time
import uuid
from datetime import timedelta
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import S3Store

from tests.http.conftest import free_port

PACKAGES = "ceph-mon ceph-osd radosgw"
"""Of Debian and Ubuntu; they bring the two command lines as well."""
PROGRAMS = ("setpriv", "ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
ACCESS_KEY, SECRET_KEY = "TESTACCESSKEY", "test/secret+key"
START_S = 60
_CONFIGURATION = """
[global]
fsid = {cluster}
mon host = v2:127.0.0.1:{monitor_port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
ms mon client mode = crc
auth cluster required = none
auth service required = none
auth client required = none
auth allow insecure global id reclaim = false
run dir = {folder}
crash dir = {folder}
admin socket =
log file = {folder}/$name.log
mon data = {folder}/mon
mon data avail crit = 0
mon data avail warn = 0
paxos propose interval = 0.05
paxos min wait = 0.01
osd data = {folder}/osd
osd objectstore = memstore
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
rgw data = {folder}
rgw frontends = beast endpoint=127.0.0.1:{gateway_port}
"""


class Ceph:
    """One cluster with one user, all of it in `folder`. It keeps its address while the gateway goes and comes back."""

    def __init__(self, folder: Path) -> None:
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing:
            pytest.skip(f"there is no S3 to test with: {missing[0]} is missing (apt-get install {PACKAGES})")
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._cluster = str(uuid.uuid4())
        self._monitor_port, self._gateway_port = free_port(), free_port()
        self.endpoint = f"http://127.0.0.1:{self._gateway_port}"

    def start(self) -> None:
        """Returns once the gateway answers."""
        for name in ("mon", "osd"):
            (self._folder / name).mkdir()
        self._configure()
        monitor = f"[v2:127.0.0.1:{self._monitor_port}]"
        self._run("monmaptool", "--create", "--addv", "a", monitor, "--fsid", self._cluster, self._monmap)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", self._monmap)
        self._spawn("ceph-mon", "-i", "a")
        self._run("ceph", "osd", "create")
        self._run("ceph-osd", "-i", "0", "--mkfs")
        self._spawn("ceph-osd", "-i", "0")
        keys = ("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        self._run("radosgw-admin", "user", "create", "--uid", "test", "--display-name", "test", *keys)
        self.start_gateway()

    def start_gateway(self) -> None:
        self._spawn("radosgw", "-n", "client.rgw")
        give_up_s = time.monotonic() + START_S
        while time.monotonic() < give_up_s:
            try:
                httpx.get(self.endpoint, timeout=5)
            except httpx.TransportError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"the gateway did not start:\n{self._said()}")

    def ensure_gateway(self) -> None:
        gateway = self._processes["radosgw"]
        if gateway.poll() is None:
            self.resume_gateway()
        else:
            self.start_gateway()

    def kill_gateway(self) -> None:
        gateway = self._processes["radosgw"]
        gateway.kill()
        gateway.wait()

    def pause_gateway(self) -> None:
        """It takes connections and answers nothing."""
        self._processes["radosgw"].send_signal(signal.SIGSTOP)

    def resume_gateway(self) -> None:
        self._processes["radosgw"].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def make_bucket(self, name: str) -> None:
        assert httpx.put(obstore.sign(self.bucket(name), "PUT", "", timedelta(minutes=1))).status_code == 200

    def bucket(self, name: str) -> S3Store:
        """Everything in a bucket, past the store that is tested."""
        return S3Store(
            name,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True},
        )

    @property
    def _monmap(self) -> str:
        return str(self._folder / "monmap")

    @property
    def _conf(self) -> str:
        return str(self._folder / "ceph.conf")

    def _configure(self) -> None:
        values = {"monitor_port": self._monitor_port, "gateway_port": self._gateway_port}
        text = _CONFIGURATION.format(cluster=self._cluster, folder=self._folder, **values)
        Path(self._conf).write_text(text, encoding="utf-8")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [program, "-c", self._conf, *arguments], check=False, capture_output=True, text=True, timeout=START_S
        )
        assert done.returncode == 0, f"{program} failed:\n{done.stdout}{done.stderr}\n{self._said()}"

    def _spawn(self, program: str, *arguments: str) -> None:
        """In the foreground, and killed by the kernel should the tests die before they can stop it.

        The kernel takes the thread that starts it for the one to outlive: only the main thread may.
        """
        command = ["setpriv", "--pdeathsig", "KILL", program, "-c", self._conf, "-f", *arguments]
        with (self._folder / "output.txt").open("ab") as output:
            self._processes[program] = subprocess.Popen(command, stdout=output, stderr=output)

    def _said(self) -> str:
        logs = (self._folder / "output.txt", *self._folder.glob("*.log"))
        return "\n".join(log.read_text(errors="replace")[-2000:] for log in logs if log.exists())
