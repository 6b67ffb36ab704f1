"""Accounts for every request: thousands of them, clients that leave, malformed bodies and replicas that are killed.

`python -m benchmarks.accounting` serves a simulated model with two replicas and two codecs, and sends requests over
HTTP. A share of the clients leaves at a random moment, a share sends what must be refused. On the way one replica of
the model is killed, later one of the codec. Each request has one end (see `ends`), and an answer is right where its
pictures equal, byte for byte, those of the same request sent alone afterwards: a simulated picture depends on the
prompt, the source, the seed and the steps.

Exit code 1 where a request was lost or hung, where an answer was wrong, unclean or given twice, or where an engine
still holds rows when all clients have gone.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.accounting.ends import Client, clients
from benchmarks.accounting.faults import Kill, Watch, kill_editor, kill_replica, logged_ends
from benchmarks.accounting.report import Solo, Storm, accounted, markdown, reported
from benchmarks.accounting.requests import Ask, Sound, asks, malformed_requests, sound_requests
from benchmarks.checkpoints import flux_kontext_configurations
from benchmarks.machine import load_average, machine
from benchmarks.server import RunningServer, serving

MODEL = "simulated"
REPLICAS = 2
SETTLED_WITHIN_S = 30.0


def main() -> None:
    arguments = _arguments()
    load_before, sound = load_average(), sound_requests(arguments.distinct, arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        model = _model(flux_kontext_configurations(Path(folder)), arguments.speed)
        limits = {"requests_in_flight": 2 * arguments.concurrency}
        with serving(models=[model], limits=limits, server={"codec_replicas": REPLICAS}) as server:
            storm, solo, logged = asyncio.run(_measured(server, sound, arguments))
    account = accounted(storm, solo, logged)
    facts = {"arguments": vars(arguments), "machine": asdict(machine(load_before))}
    report = {**facts, **reported(storm, solo, account)}
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2, default=str), encoding="utf-8")
    print(markdown(report))
    sys.exit(1 if account.faults else 0)


async def _measured(
    server: RunningServer, sound: Sequence[Sound], arguments: argparse.Namespace
) -> tuple[Storm, Solo, dict[str, Counter[str]]]:
    sent = asks(
        arguments.requests, sound, malformed_requests(arguments.seed), arguments.leave, arguments.broken, arguments.seed
    )
    async with aiohttp.ClientSession() as session:
        watch = Watch(server, MODEL, session)
        storm = await _storm(server, watch, sent, arguments.concurrency)
        solo = await _solo(server, watch, sound)
    return storm, solo, await asyncio.to_thread(logged_ends, server.logs)


async def _storm(server: RunningServer, watch: Watch, sent: Sequence[Ask], concurrency: int) -> Storm:
    async with clients(server.url, "storm") as client:
        polling = asyncio.create_task(watch.poll())
        killing = asyncio.create_task(_kills(client, watch, len(sent)))
        began_s = client.now_s()
        await client.run(sent, concurrency)
        took_s = client.now_s() - began_s
        kills = await killing
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling
    settled = await watch.until(_idle, SETTLED_WITHIN_S)
    last = await watch.ask()
    done = watch.total("row_steps"), watch.total("wasted_row_steps")
    return Storm(client.ends, kills, took_s, settled, last, *done, sent=len(sent))


async def _kills(client: Client, watch: Watch, requests: int) -> list[Kill]:
    """One after 35 in a hundred requests, the other after 65, and not before the first is made good."""
    await client.until_ended(0.35 * requests)
    editor = await kill_editor(watch, MODEL, REPLICAS, client.now_s)
    await client.until_ended(0.65 * requests)
    return [editor, await kill_replica(watch.server, "codec", client.now_s)]


def _idle(told: Mapping[str, Mapping[str, float]]) -> bool:
    return len(told) == REPLICAS and not any(one["waiting_rows"] or one["running_rows"] for one in told.values())


async def _solo(server: RunningServer, watch: Watch, sound: Sequence[Sound]) -> Solo:
    before = watch.total("row_steps"), watch.total("wasted_row_steps")
    async with clients(server.url, "solo") as client:
        for number, one in enumerate(sound):
            await client.send(Ask(number, "stay", number, one.body, one.row_steps))
    await watch.until(_idle, SETTLED_WITHIN_S)
    return Solo(
        pictures={end.ask.number: end.pictures for end in client.ends if end.kind == "answered"},
        row_steps=watch.total("row_steps") - before[0],
        owed=sum(one.row_steps for one in sound),
        wasted=watch.total("wasted_row_steps") - before[1],
    )


def _model(weights: Path, speed: float) -> dict[str, Any]:
    return {
        "id": MODEL,
        "family": "flux_kontext",
        "weights": weights,
        "backend": "simulated",
        "simulated": {"timings": "h200-512px", "speed": speed},
        "max_batch": 8,
        "replicas": REPLICAS,
        "num_cpus": 0.1,
        "threads": 1,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--distinct", type=int, default=200, help="different requests that are in order")
    parser.add_argument("--concurrency", type=int, default=32, help="requests under way at once")
    parser.add_argument("--leave", type=float, default=0.2, help="share of clients that close their connection")
    parser.add_argument("--broken", type=float, default=0.05, help="share of malformed requests")
    parser.add_argument("--speed", type=float, default=20.0, help="of the simulated device, times an H200's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file for the report as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
