"""What an operator takes from the measurements: the figures of `k8s/sizing.md`, which stand there between two marks."""

import math
import re
from collections.abc import Sequence

from benchmarks.errors import BenchError
from benchmarks.scale.report import Findings
from benchmarks.scale.thousand import BUSY, H200, SINGLES, Demand, Gpu, demand, most_gpus

BEGIN, END = "<!-- By `python -m benchmarks.scale`, from here ... -->", "<!-- ... to here. -->"
HELD = ("request's body", "prepared edit", "drawn pictures")
"""Of an edit, in the object store while it is under way."""
SHARED = {"ProxyActor": "proxy", "ingress": "ingress", "codec": "codec"}
"""Processes that edits share, by their kind."""
MOVED = {
    "request's body": "bodies that come, MB/s",
    "answer, b64_json": "answers in base64, MB/s",
    "answer, url (to the store)": "or results into the bucket, MB/s",
}


def guide(found: Findings) -> str:
    """The table, by sizes of pictures."""
    each = [demand(1, gpu, found.cost(gpu.side), found.hops(gpu.side)) for gpu in H200]
    held_mb = [sum(found.hops(gpu.side).bytes[name] for name in HELD) / 1e6 for gpu in H200]
    return "\n".join(
        [
            "| of one GPU | " + " | ".join(f"{gpu.side} px" for gpu in H200) + " |",
            "|---" * (len(H200) + 1) + "|",
            _row("edits a second", [f"{one.edits_per_s:.2f}" for one in each]),
            *(_row(f"cores of the {name}", _cores(each, kind)) for kind, name in SHARED.items()),
            *(_row(name, _moved(each, kind)) for kind, name in MOVED.items()),
            _row("object store for each edit under way, MB", [f"{one:.1f}" for one in held_mb]),
            _row(
                f"GPUs that one process of the ingress serves, at {100 * BUSY:g} % of a core",
                [_carried(found, gpu, "ingress") for gpu in H200],
            ),
            _row("GPUs that one core of the codec serves, likewise", [_carried(found, gpu, "codec") for gpu in H200]),
            *(
                _row(
                    f"GPUs that a cluster can have, by `{kind}`, likewise", [_carried(found, gpu, kind) for gpu in H200]
                )
                for kind in SINGLES
            ),
        ]
    )


def with_guide(text: str, found: Findings) -> str:
    """The page with its figures. Raises BenchError where it has no place for them."""
    marked = re.compile(f"({re.escape(BEGIN)}\n).*?({re.escape(END)})", re.DOTALL)
    if not marked.search(text):
        raise BenchError(f"the sizing guide has no lines {BEGIN} and {END}")
    return marked.sub(lambda place: f"{place[1]}{guide(found)}\n{place[2]}", text)


def _cores(each: Sequence[Demand], kind: str) -> list[str]:
    return [f"{one.cores.get(kind, 0.0):.3f}" for one in each]


def _moved(each: Sequence[Demand], name: str) -> list[str]:
    return [f"{one.bytes_per_s[name] / 1e6:.2f}" for one in each]


def _carried(found: Findings, gpu: Gpu, kind: str) -> str:
    most = most_gpus(gpu, found.costs, kind)
    return "any" if most == math.inf else f"{most:,.0f}"


def _row(name: str, values: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(values)} |"
