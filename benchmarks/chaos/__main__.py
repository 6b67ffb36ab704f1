"""Breaks a cluster under load, piece by piece, and accounts for every request.

`python -m benchmarks.chaos` deploys a simulated model with two replicas on two Ray workers, with a head whose state
Redis keeps, as a RayService does. Clients send edits all the while, in a closed loop: plain ones, streams, with an
idempotency key, and as OpenAI's clients do, which count their retries. Then faults are made one after the other (see
`benchmarks.chaos.faults`). A request must end with the pictures that it got when all was quiet; until then it may be
told to come again, by a 429 or 503 of the API's shape. A connection may be cut without an answer only where a process
that holds connections is killed: an ingress, a proxy, a whole node.

`--faults` chooses some. A full disk needs the right to mount a small file system for the results. Exit code 1 where a
promise was broken.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.accounting.requests import sound_requests
from benchmarks.chaos.clients import Clients, clients
from benchmarks.chaos.faults import DOWN_S, WORKER, Fault, World, faults, redis
from benchmarks.chaos.report import Blow, markdown, reported
from benchmarks.checkpoints import flux_kontext_configurations
from benchmarks.cluster import ENVIRONMENT, Nodes, cluster, serve_config
from benchmarks.machine import load_average, machine
from benchmarks.run import simulated
from benchmarks.server import free_port

MODEL = "simulated"
TIMINGS, SPEED = "linear", 4
RESTORED_WITHIN_S = 60.0
DISK_MIB = 2
DISTINCT = 24
FULL_DISK = "full disk"


@dataclass(frozen=True, slots=True)
class Pace:
    """clients: in the closed loop. think_s: of each, after each request, which leaves processors for what starts again.
    calm_s: before each fault. watched_s: after it, and on until all replicas are up.
    """

    clients: int = 8
    think_s: float = 0.5
    calm_s: float = 8.0
    watched_s: float = 20.0


def main() -> None:
    arguments = _arguments()
    load_before = load_average()
    report = run(arguments.faults, Pace(arguments.clients, arguments.think, arguments.calm, arguments.watched))
    told = {"machine": asdict(machine(load_before)), **report}
    page = _page(told)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "chaos.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
        (arguments.out / "chaos.md").write_text(page, encoding="utf-8")
    print(page)
    sys.exit(1 if report["wrongs"] else 0)


def run(names: Sequence[str], pace: Pace) -> dict[str, Any]:
    """The report of these faults, made in this order."""
    began_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        _world(Path(name), FULL_DISK in names) as world,
    ):
        blows, sent = asyncio.run(_broken(world, [faults(MODEL)[one] for one in names], pace))
        report = reported(blows, sent.requests, world.slow_ends)
    return {"took_s": time.monotonic() - began_s, "clients": pace.clients, "think_s": pace.think_s, **report}


async def _broken(world: World, wanted: Sequence[Fault], pace: Pace) -> tuple[list[Blow], Clients]:
    async with clients(f"http://127.0.0.1:{world.port}", sound_requests(DISTINCT, seed=0), pace.think_s) as sending:
        await sending.learn()
        async with sending.running(pace.clients):
            blows = [await _struck(world, fault, sending, pace) for fault in wanted]
    return blows, sending


async def _struck(world: World, fault: Fault, sending: Clients, pace: Pace) -> Blow:
    calm_s = sending.now_s()
    await asyncio.sleep(pace.calm_s)
    struck_s = sending.now_s()
    await asyncio.to_thread(fault.strike, world)
    if fault.mend:
        await asyncio.sleep(DOWN_S)
        await asyncio.to_thread(fault.mend, world)
    made_s = sending.now_s()
    watching = asyncio.create_task(asyncio.sleep(pace.watched_s))
    restored_s = sending.now_s() if await asyncio.to_thread(_is_restored_in_time, world.nodes) else None
    await watching
    print(f"{fault.name}: {len(sending.requests)} requests so far", file=sys.stderr)
    return Blow(fault.name, calm_s, struck_s, made_s, restored_s, sending.now_s(), fault.cuts, fault.kills)


def _is_restored_in_time(nodes: Nodes) -> bool:
    give_up_at = time.monotonic() + RESTORED_WITHIN_S
    while not _is_restored(nodes):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.25)
    return True


def _is_restored(nodes: Nodes) -> bool:
    """Ray Serve finds out about a process that died after some time; the process itself tells at once."""
    try:
        application = nodes.application()
        deployments = application.get("deployments", {})
        alive = {one.pid for one in nodes.processes("ray::ServeReplica")}
        up = [len({one.pid for one in nodes.replicas(name)} & alive) for name in deployments]
    except httpx.HTTPError:
        return False
    wanted = [one["target_num_replicas"] for one in deployments.values()]
    return application.get("status") == "RUNNING" and up == wanted


@contextmanager
def _world(folder: Path, small_disk: bool) -> Generator[World]:
    weights = flux_kontext_configurations(folder / "weights")
    store = folder / "files"
    store.mkdir()
    gcs_port, port = free_port(), free_port()
    head = {"num_cpus": 0, "gcs_server_port": gcs_port}
    with redis(folder) as state, _disk(store, small_disk):
        environment = {**ENVIRONMENT, "RAY_REDIS_ADDRESS": f"127.0.0.1:{state.port}"}
        with cluster({"head": head, "one": WORKER, "two": WORKER}, environment) as nodes:
            nodes.deploy(serve_config(_settings(weights, store), port))
            nodes.wait_until_running()
            yield World(nodes, state, port, store, {**nodes.head, **head})


@contextmanager
def _disk(store: Path, small: bool) -> Generator[None]:
    """A file system of its own for the results, where one is to become full."""
    if not small:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", store], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", store], check=True)


def _settings(weights: Path, store: Path) -> dict[str, Any]:
    model = {
        "id": MODEL,
        "family": "flux_kontext",
        "weights": str(weights),
        "backend": "simulated",
        "simulated": {"timings": TIMINGS, "speed": SPEED},
        "max_batch": 2,
        "replicas": 2,
        "num_gpus": 1,
        "num_cpus": 0.1,
        "threads": 1,
    }
    server = {"ingress_replicas": 2, "codec_replicas": 2, "cache_folder": str(weights.parent / "cache")}
    storage = {"folder": str(store), "lifetime_s": 10}
    return {"models": [model], "server": server, "storage": storage, "limits": {"body_timeout_s": 5}}


def _page(told: dict[str, Any]) -> str:
    about = told["machine"]
    versions = ", ".join(f"{name} {found}" for name, found in about["versions"].items())
    facts = (
        f"{about['cpu']}, {about['cores']} cores, load average {about['load_before']:.1f} before; {versions}. "
        f"`python -m benchmarks.chaos`, {told['took_s'] / 60:.0f} minutes, {told['clients']} clients in a closed loop, "
        f"each with {told['think_s']:g} s between two requests: one that waits for what has died sends nothing else. "
        f"Edits run on {simulated(TIMINGS, SPEED)}."
    )
    return f"# Chaos\n\n{facts}\n\n{markdown(told)}\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(faults(MODEL))
    parser.add_argument("--faults", nargs="+", choices=known, default=known, help="in the order that they are made")
    parser.add_argument("--clients", type=int, default=Pace().clients)
    parser.add_argument("--think", type=float, default=Pace().think_s, help="seconds of a client between two requests")
    parser.add_argument("--calm", type=float, default=Pace().calm_s, help="seconds before each fault")
    parser.add_argument("--watched", type=float, default=Pace().watched_s, help="seconds after each fault, at least")
    parser.add_argument("--out", type=Path, help="a folder for chaos.json and chaos.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
