"""A day's traffic on a pool of GPUs that grows and shrinks: by work, as this server does it, and by Ray's own policy.

`python -m benchmarks.day --out benchmarks/results` plays a day in virtual time (simulated: nothing is drawn): a night
almost without traffic, two ramps, and bursts at which several times as much comes at once. Edits have 4 to 50 steps and
mostly one picture. A step takes what was published for an H200 at 512 px; a replica takes 90 s to start. Both policies
run below Ray Serve's own rules of delay, with the same router and the same scheduler in each replica. Ray's policy
runs with the settings that it has where none are given, and with several targets and our delays, to find its best.
"""

import argparse
import logging
import math
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingConfig

from benchmarks.plots import BLACK, BLUE, DPI, ORANGE, STYLE
from benchmarks.pool import Device, Pool, Request
from serve.deployments.autoscaling import WorkPolicy, autoscaling
from serve.settings import ReplicaSettings

STEP_S = {1: 0.167, 2: 0.183, 4: 0.240, 8: 0.425}
"""By batch: Qwen-Image at 512 px on one H200, as SGLang published them."""

LIMIT, START_S, MOST = 8, 90.0, 24
STEPS = {4: 0.3, 8: 0.2, 28: 0.4, 50: 0.1}
PICTURES = {1: 0.9, 4: 0.1}
NIGHT, DAY = 0.05, 4.0
"""Requests a second."""

BURSTS = 8
BURST_S, BURST = 240.0, 3.0
"""How long one is, and how many times as much comes."""

DEADLINE_SOLO, DEADLINE_S = 3.0, 15.0
"""An edit is in time within so many times its run alone, and so many seconds."""

WORK, COUNT = "by work", "by count (Ray's)"
SHARES = (0.95, 0.97, 0.98, 0.99)
COLOURS = {WORK: BLUE, COUNT: ORANGE}
MARKS = {WORK: "o", COUNT: "s"}
OURS = ((3.0, 0.5), (5.0, 0.6), (5.0, 0.7), (7.0, 0.7), (10.0, 0.7), (15.0, 0.9))
TARGETS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)


def step_s(passes: int) -> float:
    low, high = next(pair for pair in pairwise(STEP_S) if passes <= pair[1])
    return STEP_S[low] + (passes - low) / (high - low) * (STEP_S[high] - STEP_S[low])


def traffic(hours: float, seed: int) -> list[Request]:
    """Poisson, by a rate that follows the hour of the day; the bursts lie anywhere in it."""
    draw = random.Random(seed)
    end_s = hours * 3600
    bursts = [draw.uniform(0.25, 0.9) * end_s for _ in range(round(BURSTS * hours / 24))]
    at_s, requests = 0.0, list[Request]()
    most = DAY * BURST
    while True:
        at_s += draw.expovariate(most)
        if at_s > end_s:
            return requests
        if draw.random() < _rate(at_s / end_s, any(0 <= at_s - burst < BURST_S for burst in bursts)) / most:
            (steps,) = draw.choices(list(STEPS), list(STEPS.values()))
            (pictures,) = draw.choices(list(PICTURES), list(PICTURES.values()))
            requests.append(Request(at_s, steps, pictures))


def _rate(share: float, in_burst: bool) -> float:
    """share: of the day that has gone. Night until 6, a peak at noon and a higher one in the evening."""
    hour = 24 * share
    peaks = 0.8 * np.exp(-(((hour - 12) / 3.0) ** 2)) + np.exp(-(((hour - 20) / 2.0) ** 2))
    return (NIGHT + (DAY - NIGHT) * min(1.0, float(peaks))) * (BURST if in_burst else 1.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """in_time: the share of requests. starts: of replicas. gpus: as in `Day`."""

    policy: str
    settings: str
    seed: int
    requests: int
    gpu_hours: float
    in_time: float
    p50_s: float
    p99_s: float
    starts: int
    gpus: Sequence[tuple[float, int]]


@dataclass(frozen=True, slots=True)
class Policy:
    """target: of ongoing requests for each replica; 0 where replicas are wanted by work."""

    name: str
    settings: str
    replicas: ReplicaSettings
    target: float = 0.0

    def pool(self) -> Pool:
        ours = autoscaling(self.replicas)
        device = Device(step_s, LIMIT, START_S)
        if not self.target:
            policy = WorkPolicy(self.replicas.max_wait_s, self.replicas.max_load)
            return Pool(device, ours, policy, max_ongoing=2 * LIMIT)
        config = AutoscalingConfig(
            min_replicas=self.replicas.min,
            max_replicas=self.replicas.max,
            target_ongoing_requests=self.target,
            upscale_delay_s=self.replicas.upscale_delay_s,
            downscale_delay_s=self.replicas.downscale_delay_s,
        )
        return Pool(device, config, replica_queue_length_autoscaling_policy, max_ongoing=2 * LIMIT)


def policies() -> list[Policy]:
    """Each with the settings that it has where none are given, then with others."""
    size = {"min": 1, "max": MOST}
    ray = AutoscalingConfig()
    delays = ReplicaSettings(**size, upscale_delay_s=ray.upscale_delay_s, downscale_delay_s=ray.downscale_delay_s)
    return [
        Policy(WORK, "defaults", ReplicaSettings(**size)),
        *(
            Policy(
                WORK,
                f"max_wait_s {wait_s:g}, max_load {load:g}",
                ReplicaSettings(**size, max_wait_s=wait_s, max_load=load),
            )
            for wait_s, load in OURS
        ),
        Policy(COUNT, "defaults", delays, ray.get_target_ongoing_requests()),
        *(
            Policy(COUNT, f"target {target:g}, delays of the other", ReplicaSettings(**size), target)
            for target in TARGETS
        ),
    ]


def measured(case: tuple[Policy, float, int]) -> Outcome:
    policy, hours, seed = case
    requests = traffic(hours, seed)
    logging.disable()  # a line for each time that another number of replicas is wanted
    day = policy.pool().serve(requests, hours * 3600)
    took_s = np.array([ended_s - one.at_s for ended_s, one in zip(day.ended_s, requests, strict=True)])
    due_s = np.array([DEADLINE_S + DEADLINE_SOLO * one.steps * STEP_S[1] for one in requests])
    return Outcome(
        policy=policy.name,
        settings=policy.settings,
        seed=seed,
        requests=len(requests),
        gpu_hours=day.gpu_hours(),
        in_time=float(np.mean(took_s <= due_s)),
        p50_s=float(np.percentile(took_s, 50)),
        p99_s=float(np.percentile(took_s, 99)),
        starts=sum(max(0, after - before) for (_, before), (_, after) in pairwise(day.gpus)),
        gpus=day.gpus,
    )


def least_hours(outcomes: Sequence[Outcome], name: str, in_time: float) -> float:
    """Of the settings with at least that share in time."""
    return min((one.gpu_hours for one in outcomes if one.policy == name and one.in_time >= in_time), default=math.inf)


def page(outcomes: Sequence[Outcome], hours: float) -> str:
    seeds = sorted({one.seed for one in outcomes})
    rows = [
        f"| {one.policy} | {one.settings} | {one.seed} | {one.gpu_hours:.1f} | {100 * one.in_time:.1f} % | "
        f"{one.p50_s:.1f} | {one.p99_s:.1f} | {one.starts} |"
        for one in outcomes
    ]
    ratios: list[str] = []
    for share in SHARES:
        each = [[one for one in outcomes if one.seed == seed] for seed in seeds]
        spent = [least_hours(one, COUNT, share) / least_hours(one, WORK, share) for one in each]
        ratios.append(f"| {100 * share:g} % | {', '.join(f'{ratio:.2f}' for ratio in spent)} |")
    return "\n".join(
        [
            "# A day's traffic, simulated",
            "",
            f"{hours:g} hours, {len(seeds)} days of {min(one.requests for one in outcomes):,} requests and more; "
            f"`python -m benchmarks.day`. An edit is in time within {DEADLINE_SOLO:g} times its run alone and "
            f"{DEADLINE_S:g} s; a replica takes {START_S:g} s to start; at most {MOST} GPUs.",
            "",
            "| in time, at least | GPU hours, by count over by work, each at its best settings, a day each |",
            "|---|---|",
            *ratios,
            "",
            "| replicas wanted | settings | day | GPU hours | in time | p50, s | p99, s | starts |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "![day.png](day.png)",
            "",
        ]
    )


def plot(outcomes: Sequence[Outcome], hours: float, path: Path) -> None:
    """What comes, the GPUs that each policy's defaults hold, and what all settings of both cost."""
    first = [one for one in outcomes if one.seed == outcomes[0].seed]
    requests = traffic(hours, first[0].seed)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 8.4), layout="constrained")
        rate, held, cost = figure.subplots(3, 1, height_ratios=[1, 1.3, 1.6])
        counts, edges = np.histogram([one.at_s / 3600 for one in requests], bins=round(hours * 20))
        rate.stairs(counts / 180, edges, color=BLACK, fill=True, alpha=0.4)
        rate.set_ylabel("requests/s")
        for name, colour in COLOURS.items():
            mine = [one for one in first if one.policy == name]
            times, gpus = zip(*next(one.gpus for one in mine if one.settings == "defaults"), strict=True)
            held.step([at / 3600 for at in times], gpus, where="post", color=colour, label=name, linewidth=1.2)
            mine.sort(key=lambda one: one.in_time)
            shares, spent = [100 * one.in_time for one in mine], [one.gpu_hours for one in mine]
            cost.plot(shares, spent, MARKS[name], color=colour, label=f"{name}, by settings")
        held.set_ylabel("GPUs, by defaults")
        held.set_xlabel("hour")
        held.legend()
        cost.set_xlabel("in time, %")
        cost.set_ylabel("GPU hours")
        cost.set_ylim(bottom=0)
        cost.legend()
        figure.suptitle("A day on an autoscaling pool (simulated)")
        figure.savefig(path, dpi=DPI)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--days", type=int, default=3, help="each with other bursts")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    cases = [(policy, options.hours, day) for day in range(1, options.days + 1) for policy in policies()]
    with ProcessPoolExecutor() as processes:
        outcomes = list(processes.map(measured, cases))
    options.out.mkdir(parents=True, exist_ok=True)
    told = page(outcomes, options.hours)
    (options.out / "day.md").write_text(told)
    plot(outcomes, options.hours, options.out / "day.png")
    print(told)


if __name__ == "__main__":
    main()
