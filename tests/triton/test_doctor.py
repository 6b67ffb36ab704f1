"""`retouch doctor` against a real Triton: the components that it serves, and those that it does not."""

from serve.cli.doctor import triton as checks
from serve.cli.doctor.findings import Verdict
from serve.settings import ModelSettings, Settings
from tests.triton.server import Triton


def test_components_that_are_served_are_well(triton: Triton, models: dict[str, ModelSettings]):
    found = {one.check: one for one in checks.triton(_settings(models["pixel"], triton))}
    assert found.keys() == {"triton of pixel", "triton pixel.text_encoder", "triton pixel.denoiser"}
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert found["triton of pixel"].found.endswith(f"at {triton.address} runs denoiser, text_encoder")


def test_components_that_are_not_served_or_otherwise_are_wrong(triton: Triton, models: dict[str, ModelSettings]):
    other = models["pixel"].model_copy(update={"id": "other"})
    halves = models["pixel"].model_copy(update={"precision": "float16"})
    for model, told in ((other, "serves no other.denoiser"), (halves, "FP32")):
        found = {one.check: one for one in checks.triton(_settings(model, triton))}
        denoiser = found[f"triton {model.id}.denoiser"]
        assert denoiser.verdict is Verdict.WRONG
        assert told in denoiser.found
        assert denoiser.advice.startswith("build it: retouch build-engines")


def _settings(model: ModelSettings, triton: Triton) -> Settings:
    address = model.triton.model_copy(update={"address": triton.address})
    return Settings(models=(model.model_copy(update={"triton": address}),))
