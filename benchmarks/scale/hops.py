"""Bytes that an edit moves at each hop: counted in what the deployments hand each other, and measured between nodes."""

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from ray import cloudpickle

from benchmarks.errors import BenchError
from benchmarks.scale.edits import MODEL, edit
from benchmarks.scale.processors import send, simulated
from benchmarks.server import free_port
from serve.families import facts_of
from serve.prepare import Origin, finish, prepare, read
from serve.settings import ModelSettings, Settings
from serve.types import EditResult, Usage

RECEIVED = "ray_object_manager_bytes"
REPORTED_WITHIN_S = 15.0
"""Ray's processes hand their metrics on every few seconds."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Bytes of one edit, by what is handed on. side: of the picture in pixels."""

    side: int
    bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of one edit that nodes have received from the others' object stores, by the node's name."""

    side: int
    edits: int
    received: Mapping[str, float]


def counted(weights: Path, side: int) -> Counted:
    """weights: a checkpoint's configurations."""
    model = ModelSettings.model_validate(simulated(weights, speed=1))
    settings, facts = Settings(models=(model,), default_model=MODEL), {MODEL: facts_of(model)}
    sent = edit(side, seed=0)
    prepared = prepare(read(sent.body), Origin("counted"), settings, facts)
    drawn = np.zeros((side, side, 3), np.uint8)
    result = EditResult((drawn,), Usage(0, 0, 0), {}, None)
    (file,) = finish(prepared.frame, result.images, prepared.notes)
    return Counted(
        side,
        {
            "request's body": len(sent.body),
            "prepared edit": _serialized(prepared),
            "drawn pictures": _serialized(result),
            "answer, b64_json": len(file) * 4 // 3,
            "answer, url (to the store)": len(file),
        },
    )


def measured(weights: Path, sides: Sequence[int], edits: int) -> list[Measured]:
    """On three nodes of this machine: `benchmarks.scale.cluster`."""
    port, config = free_port(), weights.parent / "cluster.json"
    model = {**simulated(weights, speed=50), "num_gpus": 1, "num_cpus": 0}
    storage = {"folder": str(weights.parent / "files")}
    settings = {"models": [model], "storage": storage, "auth": {"allow_anonymous": True}}
    config.write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.scale.cluster", str(config), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
        assert cluster.stdout is not None
        assert cluster.stdin is not None
        ports = next((json.loads(line) for line in cluster.stdout if line.startswith("{")), None)
        if ports is None:
            raise BenchError("the cluster did not start")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as http:
            found = [_measured(http, ports, side, edits) for side in sides]
        cluster.stdin.close()
    return found


def _measured(http: httpx.Client, ports: Mapping[str, int], side: int, edits: int) -> Measured:
    send(http, edits, side)
    before = _settled(ports)
    send(http, edits, side, first_seed=0)
    after = _settled(ports)
    return Measured(side, edits, {name: (after[name] - before[name]) / edits for name in ports})


def _settled(ports: Mapping[str, int]) -> dict[str, float]:
    """By node, once what was sent before is in the figures."""
    time.sleep(REPORTED_WITHIN_S)
    return {name: _received(port) for name, port in ports.items()}


def _received(port: int) -> float:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30, trust_env=False).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(one.value for one in samples if one.name == RECEIVED and one.labels.get("Type") == "Received")


def _serialized(value: Any) -> int:
    """As Ray writes it: a pickle, and the arrays' bytes beside it."""
    arrays: list[pickle.PickleBuffer] = []
    return len(cloudpickle.dumps(value, protocol=5, buffer_callback=arrays.append)) + sum(
        len(array.raw()) for array in arrays
    )
