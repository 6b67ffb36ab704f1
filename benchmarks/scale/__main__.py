"""What serving costs as a cluster grows; about 25 minutes on two cores that do nothing else.

`python -m benchmarks.scale` measures the processor time of an edit in each kind of process, the bytes that it moves,
and what a request costs beside its drawing with 1 to 16 replicas. From that it reckons what a thousand GPUs would take,
and puts the figures into the sizing guide.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.checkpoints import flux_kontext_configurations
from benchmarks.machine import load_average, machine
from benchmarks.processes import say
from benchmarks.scale.guide import with_guide
from benchmarks.scale.hops import counted, measured
from benchmarks.scale.processors import SIDES, costs
from benchmarks.scale.replicas import Overhead, overhead
from benchmarks.scale.report import Findings


def main() -> None:
    arguments = _arguments()
    load_before = load_average()
    with tempfile.TemporaryDirectory() as folder:
        weights = flux_kontext_configurations(Path(folder) / "weights")
        spent = costs(weights, arguments.edits)
        moved = measured(weights, SIDES, arguments.edits // 4)
        overheads: list[Overhead] = []
        for _ in range(arguments.rounds):
            for replicas in arguments.replicas:
                one = overhead(weights, replicas, arguments.seconds)
                say(f"{replicas} replicas: {one.median_ms:.0f} ms, {one.cpu_ms:.0f} ms of processor time")
                overheads.append(one)
        sizes = [counted(weights, side) for side in SIDES]
    found = Findings(machine(load_before), spent, sizes, moved, overheads)
    print(found.write(arguments.out))
    guide = arguments.guide.read_text(encoding="utf-8")
    arguments.guide.write_text(with_guide(guide, found), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=60, help="of each size and way to ask")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40.0, help="of load, each round and number of replicas")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--guide", type=Path, default=Path("k8s/sizing.md"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
