"""The models that are served, and what runs their components."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from serve.settings.section import MIB, Section

_ROOT = Path(__file__).parent.parent.parent
EMBEDDED_CHECKPOINT = _ROOT / "embedded_model" / "checkpoint"
"""Both packages are installed together, editable or not; finding it by import would take any folder of that name."""

BackendName = Literal["torch", "onnxruntime", "openvino", "tensorrt", "triton", "simulated"]
Precision = Literal["float32", "float16", "bfloat16"]
ModelId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$")]


class SimulatedSettings(Section):
    """Of the backend `simulated`. timings: the name of a table that comes along, or the path of one. speed: divides
    all of its times. memory_bytes: of the device that it plays.
    """

    timings: str = "h200-512px"
    speed: float = Field(default=1.0, gt=0)
    memory_bytes: int = Field(default=141 * 10**9, ge=1)


class TritonSettings(Section):
    """Of the backend `triton`: a Triton server that serves the model repository.

    address: host and port of its gRPC. timeout_s: that one call may take. shared_memory: tensors lie where both
    processes see them, which needs one machine, and from Triton 2.68 on the server's option --allow-client-shm=true.
    """

    address: str = "127.0.0.1:8001"
    timeout_s: float = Field(default=60.0, gt=0)
    shared_memory: bool = True


class ComponentSettings(Section):
    """Where one component of a model runs; what is left out is as for the model."""

    backend: BackendName | None = None
    device: str | None = None
    precision: Precision | None = None
    threads: int | None = Field(default=None, ge=0)


class ReplicaSettings(Section):
    """How many replicas a model has: as many as its work needs, from `min` to `max`; a plain number is both.

    max_wait_s: for which time's worth of work may be queued on each. max_load: the share of its time that each may
    work, in the mean of a minute. upscale_delay_s, downscale_delay_s: how long more, or fewer, must have been wanted
    before they are more or fewer. With a `min` of 0 the last one ends too, after downscale_delay_s without work; the
    edit that comes next waits until one is up, as long as its time allows.
    """

    min: int = Field(default=1, ge=0)
    max: int = Field(default=1, ge=1)
    max_wait_s: float = Field(default=10.0, gt=0)
    max_load: float = Field(default=0.8, gt=0, le=1)
    upscale_delay_s: float = Field(default=5.0, ge=0)
    downscale_delay_s: float = Field(default=300.0, ge=0)

    @property
    def fixed(self) -> bool:
        return self.min == self.max

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_both(cls, value: object) -> object:
        return {"min": value, "max": value} if isinstance(value, int) else value

    @model_validator(mode="after")
    def _min_is_not_above_max(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max is {self.max}; min must not be above max")
        return self


class ModelSettings(Section):
    """One model that is served.

    weights: a folder in diffusers' layout or a hub id. backend: what runs its components. model_repository: where
    `retouch build-engines` puts the compiled ones, for the backends `onnxruntime`, `openvino`, `tensorrt` and `triton`.
    components: by name, those that run elsewhere than the others. device: as torch names it. compile: the backend
    `torch` compiles what it runs, which takes up to a minute for each shape when it first comes. cuda_graphs: on CUDA
    devices, the backends `torch` and `tensorrt` launch what they run as graphs. max_batch: rows that one pass of the
    denoiser takes. batching: `steps`, where rows join and leave at each step; `requests`, where requests of equal
    parameters run through together; `none`, one request after the other. The last two are there to be measured
    against.
    max_queued_rows: rows that wait before the answer is 429. memory_share: of the device's memory, what the model and
    its work may fill. profile_s: seconds that a start may spend to measure the model, where it is not known from an
    earlier one. step_log: a file that gets a line of JSON for each step. num_gpus, num_cpus: of one replica, as Ray
    counts them. threads: of one replica's CPU kernels; 0: as many as its process may use CPUs, counted where it runs
    (`serve.cpus.usable_cpus`), and one where the backend is simulated. num_inference_steps, strength and
    guidance_scale replace the family's defaults.
    """

    id: ModelId
    aliases: tuple[ModelId, ...] = ()
    family: str
    weights: str
    backend: BackendName = "torch"
    model_repository: Path = _ROOT / "model_repository"
    components: dict[str, ComponentSettings] = Field(default_factory=dict[str, ComponentSettings])
    simulated: SimulatedSettings = SimulatedSettings()
    triton: TritonSettings = TritonSettings()
    device: str = "cpu"
    precision: Precision = "float32"
    compile: bool = False
    cuda_graphs: bool = True
    max_batch: int = Field(default=1, ge=1, le=64)
    batching: Literal["steps", "requests", "none"] = "steps"
    max_queued_rows: int = Field(default=64, ge=1)
    memory_share: float = Field(default=0.9, gt=0, le=1)
    profile_s: float = Field(default=10.0, ge=0)
    step_log: Path | None = None
    cache_bytes: int = Field(default=256 * MIB, ge=0)
    replicas: ReplicaSettings = ReplicaSettings()
    num_gpus: float = Field(default=0.0, ge=0)
    num_cpus: float = Field(default=1.0, ge=0)
    threads: int = Field(default=0, ge=0)
    num_inference_steps: int | None = Field(default=None, ge=1, le=100)
    strength: float | None = Field(default=None, ge=0, le=1)
    guidance_scale: float | None = Field(default=None, ge=0, le=20)

    @model_validator(mode="after")
    def _a_gpu_is_asked_for(self) -> Self:
        devices = [self.device, *(component.device or "" for component in self.components.values())]
        for device in devices:
            if device.startswith("cuda") and self.num_gpus == 0:
                raise ValueError(f"device {device} needs num_gpus above 0; Ray shows a replica no GPU without")
        return self

    @model_validator(mode="after")
    def _what_is_compiled_runs_on_torch(self) -> Self:
        backends = {self.backend, *(component.backend for component in self.components.values())}
        if self.compile and "torch" not in backends:
            raise ValueError(f"compile is of the backend torch alone; backend is {self.backend}")
        return self


def embedded_model() -> ModelSettings:
    """The small model that comes with the project and needs no GPU."""
    weights = str(EMBEDDED_CHECKPOINT)
    return ModelSettings(
        id="retouch-tiny", family="pixel_edit", weights=weights, backend="openvino", precision="bfloat16"
    )
