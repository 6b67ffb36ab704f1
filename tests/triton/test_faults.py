"""A real Triton that is slow, hangs, dies or comes back: calls end, memory is given back, and all goes on by itself."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
import torch
from torch import nn
from tritonclient.grpc import service_pb2_grpc

from serve.backends import triton_server
from serve.backends.triton import TritonBackend, TritonComponent
from serve.backends.triton_memory import SystemRegion
from serve.backends.triton_words import calls
from serve.errors import BackendUnavailable
from serve.settings import TritonSettings
from tests.triton.conftest import WEIGHTS, Load, backend
from tests.triton.probe import PROBE, PROBED, probe_inputs
from tests.triton.server import Triton


@pytest.mark.parametrize("shared_memory", [True, False], ids=["shared_memory", "messages"])
def test_a_call_ends_at_its_deadline_and_its_late_answer_reaches_nobody(load: Load, shared_memory: bool):
    echo = load(PROBE, PROBED, timeout_s=1.0, shared_memory=shared_memory)
    echo(probe_inputs(6000))
    started_s = time.monotonic()

    with pytest.raises(BackendUnavailable, match="the Triton server did not answer within 1 s; try again") as raised:
        echo(probe_inputs(100, seed=1, seconds=1.5))

    assert time.monotonic() - started_s < 1.4
    assert raised.value.retry_after_s
    # The first call goes on, and its answer is written where inputs of the next, larger one would lie by now.
    answer = echo(probe_inputs(6000, seed=2))
    assert torch.equal(answer["single_out"], probe_inputs(6000, seed=2)["single"])


def test_nothing_stays_in_shared_memory(triton: Triton):
    before = set(Path("/dev/shm").glob(f"retouch-{os.getpid()}-*"))
    served = backend(triton, PROBE, timeout_s=0.5)
    echo = served.load(PROBED, nn.Identity, WEIGHTS)
    with pytest.raises(BackendUnavailable):
        echo(probe_inputs(3000, seconds=0.7))
    time.sleep(0.5)
    echo(probe_inputs(10))
    during = set(Path("/dev/shm").glob(f"retouch-{os.getpid()}-*")) - before
    assert during

    served.close()

    assert not during & set(Path("/dev/shm").glob(f"retouch-{os.getpid()}-*"))
    watching = triton_server.TritonServer(TritonSettings(address=triton.address))
    assert not {path.name for path in during} & {*watching.regions("System")}


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(triton: Triton, load: Load):
    watching = triton_server.TritonServer(TritonSettings(address=triton.address))
    living, orphan = SystemRegion(4096), Path("/dev/shm/retouch-0-orphan")
    orphan.write_bytes(bytes(4096))  # a lock ends with its process
    for name in (living.name, orphan.name):
        watching.register("System", name, {"key": f"/{name}", "byte_size": 4096})

    load(PROBE, PROBED)(probe_inputs(5))

    assert not orphan.exists()
    assert {living.name, orphan.name} & {*watching.regions("System")} == {living.name}
    watching.unregister("System", living.name)
    living.close()


def test_a_server_that_hangs_is_noticed_and_one_that_goes_on_is_used_again(triton: Triton):
    served = backend(triton, PROBE, timeout_s=0.5)
    echo = served.load(PROBED, nn.Identity, WEIGHTS)
    served.check()
    triton.pause()
    try:
        with pytest.raises(BackendUnavailable, match="did not answer within"):
            served.check()
        with pytest.raises(BackendUnavailable, match="did not answer within"):
            echo(probe_inputs(5))
    finally:
        triton.resume()
    served.check()
    assert torch.equal(echo(probe_inputs(5, seed=3))["single_out"], probe_inputs(5, seed=3)["single"])


def test_calls_fail_cleanly_while_the_server_is_away_and_succeed_when_it_is_back(triton: Triton):
    served = backend(triton, PROBE)
    shared = served.load(PROBED, nn.Identity, WEIGHTS)
    messages = backend(triton, PROBE, shared_memory=False).load(PROBED, nn.Identity, WEIGHTS)
    stop, away = threading.Event(), threading.Event()

    with ThreadPoolExecutor(2) as threads:
        callers = [threads.submit(_call_on, echo, stop, away) for echo in (shared, messages)]
        time.sleep(0.5)
        triton.kill()
        assert away.wait(10)
        with pytest.raises(BackendUnavailable, match="the Triton server cannot be reached; try again"):
            served.check()
        triton.start()
        _until_found(served)
        time.sleep(0.5)
        stop.set()
        ends = [caller.result() for caller in callers]

    for right, failed, at_last in ends:
        assert right > 10
        assert failed > 0
        assert at_last
    served.check()


def test_a_server_that_was_restarted_between_two_calls_is_not_noticed(triton: Triton):
    served = backend(triton, PROBE)
    echo = served.load(PROBED, nn.Identity, WEIGHTS)
    echo(probe_inputs(5))
    triton.kill()
    triton.start()
    _until_found(served)

    assert torch.equal(echo(probe_inputs(5, seed=4))["single_out"], probe_inputs(5, seed=4)["single"])


def test_a_model_whose_process_dies_is_unavailable_until_the_server_is_started_anew(triton: Triton):
    served = backend(triton, PROBE)
    echo = served.load(PROBED, nn.Identity, WEIGHTS)
    echo(probe_inputs(5))
    triton.kill_models()

    with pytest.raises(BackendUnavailable, match=r"the Triton server does not run probe\.echo at the moment"):
        echo(probe_inputs(5))

    triton.kill()
    triton.start()
    _until_found(served)
    assert torch.equal(echo(probe_inputs(5, seed=4))["single_out"], probe_inputs(5, seed=4)["single"])


def test_readiness_is_that_of_the_models_that_were_loaded_and_of_no_others(triton: Triton, tmp_path: Path):
    some = Triton(triton.repository, tmp_path, "--model-control-mode=explicit", "--load-model=probe.echo").start()
    try:
        with grpc.insecure_channel(some.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            served = backend(some, PROBE)
            served.load(PROBED, nn.Identity, WEIGHTS)
            served.check()
            stub.RepositoryModelUnload(calls.RepositoryModelUnloadRequest(model_name="probe.echo"))
            with pytest.raises(BackendUnavailable, match=r"the Triton server does not run probe\.echo at the moment"):
                served.check()
            stub.RepositoryModelLoad(calls.RepositoryModelLoadRequest(model_name="probe.echo"))
            stub.RepositoryModelLoad(calls.RepositoryModelLoadRequest(model_name="probe.bounded"))
            stub.RepositoryModelUnload(calls.RepositoryModelUnloadRequest(model_name="probe.bounded"))
            served.check()
    finally:
        some.stop()


def _until_found(served: TritonBackend) -> None:
    """The channel looks for the server once a second."""
    give_up_s = time.monotonic() + 10
    while time.monotonic() < give_up_s:
        with suppress(BackendUnavailable):
            served.check()
            return
        time.sleep(0.05)
    served.check()


def _call_on(echo: TritonComponent, stop: threading.Event, away: threading.Event) -> tuple[int, int, bool]:
    """Until it is to stop: calls answered right, calls that failed, and whether the last one was right."""
    right = failed = 0
    at_last = False
    while not stop.is_set():
        inputs = probe_inputs(2000, seed=right)
        try:
            outputs = echo(inputs)
        except BackendUnavailable:
            failed, at_last = failed + 1, False
            away.set()
            time.sleep(0.05)
            continue
        assert all(torch.equal(outputs[f"{name}_out"], tensor) for name, tensor in inputs.items())
        right, at_last = right + 1, True
    return right, failed, at_last
