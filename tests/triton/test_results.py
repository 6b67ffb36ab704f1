"""Components on a real Triton: their results, and what is refused at the start and at a call."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import onnxruntime
import pytest
import torch
from torch import nn
from tritonclient.grpc import service_pb2_grpc

from build_engines.inputs import lengths_of, random_inputs
from build_engines.parts import Part
from serve.backends import triton_memory, triton_server
from serve.backends.manifest import Engine
from serve.backends.triton import TritonBackend
from serve.errors import ConfigurationError, UnsupportedParameter
from serve.families.base import Family
from serve.settings import ModelSettings, TritonSettings
from serve.types import ComponentSpec
from tests.triton.conftest import THREADS, WEIGHTS, Load, backend
from tests.triton.probe import MAX_BATCH, PROBE, PROBED, probe_inputs
from tests.triton.server import Triton

SIZES = ((96, 64), (48, 32))
"""The second needs less memory than the first, a second batch of the first more."""
COMPONENTS = (
    ("flux", "text_encoder"),
    ("flux", "text_encoder_2"),
    ("flux", "vae_encoder"),
    ("flux", "vae_decoder"),
    ("flux", "denoiser"),
    ("pixel", "text_encoder"),
    ("pixel", "denoiser"),
)


@pytest.mark.parametrize("shared_memory", [True, False], ids=["shared_memory", "messages"])
@pytest.mark.parametrize(("model", "component"), COMPONENTS)
def test_a_component_answers_what_onnx_runtime_does_in_this_process(
    load: Load,
    models: dict[str, ModelSettings],
    built: dict[str, tuple[Family, dict[str, Part]]],
    model: str,
    component: str,
    shared_memory: bool,
):
    family, parts = built[model]
    spec = parts[component].spec
    served = load(model, spec, shared_memory=shared_memory)
    here = session(Engine(models[model].model_repository, model, component).file("onnxruntime"))

    for batch, size in ((1, SIZES[0]), (3, SIZES[0]), (2, SIZES[1])):
        inputs = random_inputs(spec, lengths_of(spec, family.lengths(size, ()), batch), seed=batch)
        outputs = served(inputs)
        names = [tensor.name for tensor in spec.outputs]
        expected: Any = here.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
        for name, array in zip(names, expected, strict=True):
            assert outputs[name].dtype == torch.float32
            assert outputs[name].isfinite().all()
            assert outputs[name].numpy().tobytes() == array.tobytes()
            assert outputs[name].shape == array.shape


@pytest.mark.parametrize("shared_memory", [True, False], ids=["shared_memory", "messages"])
def test_every_type_arrives_and_comes_back_bit_for_bit(load: Load, shared_memory: bool):
    echo = load(PROBE, PROBED, shared_memory=shared_memory)

    for length in (5, 4000, 7):
        inputs = probe_inputs(length, seed=length)
        outputs = echo(inputs)
        for name, tensor in inputs.items():
            answer = outputs[f"{name}_out"]
            assert (answer.dtype, answer.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(answer, tensor)


def test_answers_belong_to_the_caller(load: Load):
    echo = load(PROBE, PROBED)
    first = echo(probe_inputs(9, seed=1))

    echo(probe_inputs(9, seed=2))

    assert torch.equal(first["single_out"], probe_inputs(9, seed=1)["single"])
    first["single_out"].add_(1)


def test_inputs_may_lie_in_memory_in_any_order(load: Load):
    inputs = probe_inputs(9, seed=1)
    turned = {**inputs, "single": inputs["single"].transpose(1, 2).contiguous().transpose(1, 2)}
    assert not turned["single"].is_contiguous()

    for shared_memory in (True, False):
        assert torch.equal(load(PROBE, PROBED, shared_memory=shared_memory)(turned)["single_out"], inputs["single"])


def test_the_server_tells_what_runs_and_how_many_rows_it_takes(triton: Triton, load: Load):
    served = backend(triton, "flux")

    assert served.name == f"triton 2.51.0 at {triton.address}, onnxruntime"
    assert served.batch_invariant
    assert not backend(triton, PROBE).batch_invariant, "it has tensors in float16"
    (batch,) = (axis for axis in load(PROBE, PROBED).spec.axes if axis.name == "batch")
    assert batch.max == MAX_BATCH


def test_a_tensor_that_does_not_fit_is_refused_before_it_is_sent(load: Load):
    echo = load(PROBE, PROBED)

    with pytest.raises(ValueError, match=r"echo: tensor ids must have shape \(batch, length\); found \(2, 5, 1\)"):
        echo({**probe_inputs(5), "ids": torch.zeros(2, 5, 1, dtype=torch.int64)})
    with pytest.raises(ValueError, match="echo: tensor single: axis batch must be 1 to 4; found 5"):
        echo(random_inputs(PROBED, {"batch": 5, "length": 5}))


def test_a_shape_that_a_plan_was_not_built_for_is_refused_before_it_is_sent(load: Load):
    """Sent, it would be the server's refusal, which is nobody's to mend."""
    echo = load(PROBE, replace(PROBED, name="bounded"))
    echo(probe_inputs(8))

    for length in (1, 9):
        told = rf"the engine of the bounded was built for length 2 to 8 \(found {length}\); build it: retouch build-"
        with pytest.raises(UnsupportedParameter, match=told) as refused:
            echo(probe_inputs(length))
        assert refused.value.param == "size"


def test_a_model_that_fails_fails_the_call_in_its_words(load: Load):
    echo = load(PROBE, PROBED)

    with pytest.raises(RuntimeError, match="echo failed on the Triton server: -1 seconds cannot be waited"):
        echo(probe_inputs(5, seconds=-1))
    assert torch.equal(echo(probe_inputs(5))["ids_out"], probe_inputs(5)["ids"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(PROBED, name="lost"), "serves no probe.lost; build it: retouch build-engines --model probe"),
        (
            replace(PROBED, inputs=(replace(PROBED.inputs[0], dtype="float16"), *PROBED.inputs[1:])),
            r"serves probe.echo with input single FP32 \[3, -1\] where FP16 \[3, -1\] is wanted; build it: ",
        ),
        (
            replace(PROBED, inputs=(replace(PROBED.inputs[0], shape=("batch", 4, "length")), *PROBED.inputs[1:])),
            r"serves probe.echo with input single FP32 \[3, -1\] where FP32 \[4, -1\] is wanted; build it: ",
        ),
        (
            replace(PROBED, outputs=PROBED.outputs[1:]),
            r"serves probe.echo with output single_out FP32 \[3, -1\] where none is wanted; build it: ",
        ),
        (
            replace(PROBED, inputs=(*PROBED.inputs, replace(PROBED.inputs[3], name="more"))),
            r"serves probe.echo with input more missing where INT64 \[-1\] is wanted; build it: ",
        ),
        (replace(PROBED, name="denoiser"), "joins requests for probe.denoiser into batches, which gives wrong results"),
    ],
)
def test_a_model_that_is_not_the_component_stops_the_start(triton: Triton, spec: ComponentSpec, message: str):
    with pytest.raises(ConfigurationError, match=f"^the Triton server at {triton.address} {message}"):
        backend(triton, PROBE).load(spec, nn.Identity, WEIGHTS)


def test_a_server_that_is_not_there_stops_the_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(triton_server, "START_TIMEOUT_S", 0.3)

    with pytest.raises(ConfigurationError, match=r"no Triton server answers at 127.0.0.1:9 \(triton.address\) within"):
        TritonBackend(ModelSettings(id="m", family="f", weights="w", triton=TritonSettings(address="127.0.0.1:9")))


def test_tensors_travel_in_messages_where_the_server_refuses_shared_memory(
    triton: Triton, caplog: pytest.LogCaptureFixture
):
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(WithoutSharing(triton.address), server)
    server.start()
    asked = TritonSettings(address=f"127.0.0.1:{port}")
    echo = TritonBackend(ModelSettings(id=PROBE, family="none", weights="none", triton=asked)).load(
        PROBED, nn.Identity, WEIGHTS
    )

    for seed in (1, 2):
        assert torch.equal(echo(probe_inputs(9, seed))["brain_out"], probe_inputs(9, seed)["brain"])

    (said,) = (record.getMessage() for record in caplog.records if "messages" in record.getMessage())
    assert said == f"tensors of echo travel in messages from now on: {WithoutSharing.said}"
    server.stop(None)


def test_calls_go_in_messages_where_there_is_no_room_for_shared_memory(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(triton_memory, "FOLDER", tmp_path / "none")

    echo = load(PROBE, PROBED)

    assert torch.equal(echo(probe_inputs(5))["brain_out"], probe_inputs(5)["brain"])


class WithoutSharing:
    """A real server's face, as Triton from 2.68 on shows it when it was started without --allow-client-shm."""

    said = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."

    def __init__(self, address: str) -> None:
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(address))

    def __getattr__(self, method: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            if "SharedMemory" in method:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, self.said)
            return getattr(self._stub, method)(request)

        return answer


def session(path: Path) -> onnxruntime.InferenceSession:
    """An oracle in this process; the graph's optimisation and the threads decide about bits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
