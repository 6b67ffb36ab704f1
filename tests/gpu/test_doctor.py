"""`retouch doctor` where there is a GPU."""

from serve.cli.doctor import gpus
from serve.cli.doctor.findings import Verdict
from serve.settings import EMBEDDED_CHECKPOINT, ModelSettings, Settings
from tests.gpu import on_a_gpu

pytestmark = on_a_gpu


def test_a_model_on_a_gpu_is_well():
    model = ModelSettings(
        id="tiny", family="pixel_edit", weights=str(EMBEDDED_CHECKPOINT), device="cuda", num_gpus=1, backend="torch"
    )
    found = [*gpus.gpus(Settings(models=(model,))), *gpus.torch_on_gpus(Settings(models=(model,)))]
    assert {one.verdict for one in found} == {Verdict.OK}
