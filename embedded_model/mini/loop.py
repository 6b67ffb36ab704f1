"""The training loop of every stage: the same on two CPU cores and on one large GPU.

What a step sees depends on its number alone, and the state is saved whole, so that a run which was stopped, by a signal
or a loss of power, goes on as if it had not been.
"""

import copy
import csv
import logging
import math
import os
import signal
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

LOG = logging.getLogger(__name__)
_CLIP_NORM = 1.0


class Stage(Protocol):
    """One thing that is trained. modules: what is learned, by name; the loop changes it in place."""

    modules: nn.ModuleDict

    @property
    def matrices(self) -> Sequence[Tensor]:
        """Weights of the modules that map hidden states to hidden states: Muon trains them, and AdamW all others."""
        ...

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """Scalars of this step's batch, which the stage makes itself: "loss" is minimised, others are only logged."""
        ...

    def show(self, average: nn.ModuleDict, file: Path) -> None:
        """Writes a picture of what the averaged weights can do."""
        ...


@dataclass(frozen=True)
class Schedule:
    """steps: of the optimiser. The rate rises over `warmup` steps, stays, and falls in a line over the last third.

    minutes: where given, the run ends after that time however many steps it took, and the rate falls with the time.
    """

    steps: int
    rate: float
    warmup: int = 200
    weight_decay: float = 0.01
    average: float = 0.997
    log_every: int = 20
    save_every: int = 500
    minutes: float | None = None


class Run:
    """A stage's state in a folder: `state.pt`, `losses.csv` and a picture every so often."""

    def __init__(self, stage: Stage, schedule: Schedule, folder: Path, device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._stage, self._schedule, self._folder = stage, schedule, folder
        self.average = copy.deepcopy(stage.modules).requires_grad_(False)
        self._optimizers = _optimizers(stage, schedule)
        self._log = _Losses(folder / "losses.csv", schedule.log_every)
        self.done, self._seconds = self._load(device)

    def train(self) -> bool:
        """Runs what is left of the schedule, or to SIGTERM or Ctrl-C. Answers whether the schedule has ended."""
        with _asked_to_stop() as asked:
            while (progress := self._progress()) < 1 and not asked:
                started = time.monotonic()
                self._step(progress)
                self._seconds += time.monotonic() - started
                self.done += 1
                if self.done % self._schedule.save_every == 0:
                    self._keep()
        self._keep()
        return progress >= 1

    def _progress(self) -> float:
        by_steps = self.done / self._schedule.steps
        limit = self._schedule.minutes
        return by_steps if limit is None else max(by_steps, self._seconds / (60 * limit))

    def _step(self, progress: float) -> None:
        rate = self._schedule.rate * _share_of_rate(self.done, progress, self._schedule.warmup)
        losses = self._stage.losses(self.done)
        self._stage.modules.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self._stage.modules.parameters(), _CLIP_NORM)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        decay = min(self._schedule.average, (1 + self.done) / (10 + self.done))
        average = get_ema_multi_avg_fn(decay)
        average([*self.average.parameters()], [*self._stage.modules.parameters()], self.done)
        self._log.add(self.done, losses)

    def _keep(self) -> None:
        """Replaces the state's file whole, so that a stop in the middle leaves the former one."""
        state = {
            "done": self.done,
            "seconds": self._seconds,
            "modules": self._stage.modules.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        partial = self._folder / "state.partial"
        torch.save(state, partial)
        os.replace(partial, self._folder / "state.pt")
        self._stage.show(self.average, self._folder / f"step-{self.done:06d}.png")

    def _load(self, device: torch.device) -> tuple[int, float]:
        """Steps done before, and the seconds that they took."""
        file = self._folder / "state.pt"
        if not file.exists():
            return 0, 0.0
        state = torch.load(file, map_location=device, weights_only=True)
        self._stage.modules.load_state_dict(state["modules"])
        self.average.load_state_dict(state["average"])
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        return state["done"], state["seconds"]


def _optimizers(stage: Stage, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """AdamW (Loshchilov and Hutter 2019) and, for matrices, Muon (Jordan et al. 2024), whose steps are as long."""
    matrices = [(str(number), matrix) for number, matrix in enumerate(stage.matrices)]
    taken = {id(matrix) for _, matrix in matrices}
    others = [p for p in stage.modules.parameters() if p.requires_grad and id(p) not in taken]
    adamw = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=schedule.weight_decay, fused=True)
    if not matrices:
        return [adamw]
    muon = torch.optim.Muon(matrices, weight_decay=schedule.weight_decay, adjust_lr_fn="match_rms_adamw")
    return [adamw, muon]


def trained(folder: Path) -> bool:
    """Whether a run has kept a state there."""
    return (folder / "state.pt").exists()


def load_average(modules: nn.ModuleDict, folder: Path) -> int:
    """Puts the averaged weights of a run's last state into the modules; answers how many steps it had taken.

    Raises FileNotFoundError: the run has kept no state yet.
    """
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    modules.load_state_dict(state["average"])
    return state["done"]


def _share_of_rate(step: int, progress: float, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup, max(0.02, 3 * (1 - progress)))


@contextmanager
def _asked_to_stop() -> Generator[list[int]]:
    """A list that holds the signal once SIGTERM or SIGINT has come, so that a step is ended and the state saved."""
    asked: list[int] = []
    former = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in (15, 2)}
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class _Losses:
    """Appends the means of every `every` steps to a CSV file."""

    def __init__(self, path: Path, every: int) -> None:
        self._path, self._every = path, every
        self._rows: list[Mapping[str, Tensor]] = []
        self._started = time.monotonic()

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        self._rows.append({name: value.detach() for name, value in losses.items()})
        if (step + 1) % self._every == 0:
            self._write(step + 1)

    def _write(self, step: int) -> None:
        seconds = (time.monotonic() - self._started) / len(self._rows)
        names = sorted({name for row in self._rows for name in row})
        means = {name: _mean([row[name] for row in self._rows if name in row]) for name in names}
        LOG.info("step %d, %.3f s a step: %s", step, seconds, ", ".join(f"{n} {m:.4f}" for n, m in means.items()))
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", "seconds_per_step", "name", "mean"])
            writer.writerows([step, f"{seconds:.4f}", name, f"{mean:.6f}"] for name, mean in means.items())
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(f"the loss is {means['loss']} at step {step}")
        self._rows, self._started = [], time.monotonic()


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).mean())
