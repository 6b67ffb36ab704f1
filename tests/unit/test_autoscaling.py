"""How many replicas are wanted, by Ray Serve's own context and its own rules of delay."""

from typing import Any

import pytest
from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingContext

from serve.deployments.autoscaling import LOAD_WINDOW_S, LoadMeter, WorkPolicy, autoscaling, published
from serve.settings import ModelSettings, ReplicaSettings


def context(
    *replicas: dict[str, float], waiting: float = 0, requests: float | None = None, target: int | None = None
) -> AutoscalingContext:
    """replicas: what each has published. waiting: requests that no replica has; requests: all."""
    names = {name for told in replicas for name in told}
    return AutoscalingContext(
        deployment_id=None,  # pyright: ignore[reportArgumentType]
        deployment_name="editor-m",
        app_name="retouch",
        current_num_replicas=len(replicas),
        target_num_replicas=len(replicas) if target is None else target,
        running_replicas=[],
        total_num_requests=waiting if requests is None else requests,
        total_queued_requests=waiting,
        aggregated_metrics={name: {str(i): told[name] for i, told in enumerate(replicas)} for name in names},  # pyright: ignore[reportArgumentType]
        raw_metrics={},
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=100,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=None,
    )


def replica(queued_s: float = 0.0, load: float = 0.0, request_s: float = 0.0) -> dict[str, float]:
    return {"queued_s": queued_s, "load": load, "request_s": request_s}


def wanted(seen: AutoscalingContext) -> int:
    return WorkPolicy(max_wait_s=10, max_load=0.8)(seen)[0]


@pytest.mark.parametrize(
    ("seen", "replicas"),
    [
        (context(replica()), 0),
        (context(replica(queued_s=0.1)), 1),
        (context(replica(queued_s=10.0)), 1),
        (context(replica(queued_s=35.0)), 4),
        (context(replica(queued_s=35.0), replica(queued_s=14.0)), 5),
        (context(replica(load=0.8)), 1),
        (context(replica(load=0.9), replica(load=0.9), replica(load=0.7)), 4),
        (context(replica(queued_s=5.0, load=0.9), replica(queued_s=5.0, load=0.9)), 3),
        (context(replica(queued_s=20.0, request_s=4.0), waiting=5), 4),
        (context(requests=1, waiting=1), 1),
    ],
)
def test_as_many_are_wanted_as_the_queue_and_the_load_need(seen: AutoscalingContext, replicas: int):
    assert wanted(seen) == replicas


def test_one_long_request_and_fifty_short_ones_of_as_much_work_want_the_same():
    """Ray's own policy, which counts requests, sees them 50 fold apart."""
    one, many = context(replica(queued_s=50.0), requests=1), context(replica(queued_s=50.0), requests=50)
    assert wanted(one) == wanted(many) == 5
    for seen in (one, many):
        seen.config = autoscaling(ReplicaSettings(min=1, max=100, upscale_delay_s=0))
    counted = [replica_queue_length_autoscaling_policy(seen)[0] for seen in (one, many)]
    assert counted[1] > 10 * counted[0]


def test_why_replicas_are_wanted_is_logged_once(caplog: pytest.LogCaptureFixture):
    policy, seen = WorkPolicy(max_wait_s=10, max_load=0.8), context(replica(queued_s=35.0, load=0.5))
    with caplog.at_level("INFO", logger="ray.serve"):
        for _ in range(3):
            _, seen.policy_state = policy(seen)
    (line,) = caplog.messages
    assert line.startswith("editor-m has 1 replicas and needs 4: 35.0 s of work are queued")


def test_load_is_what_came_within_a_minute():
    now_s = 0.0
    meter = LoadMeter(lambda: now_s)
    loads: list[float] = []
    for second in range(1, 301):
        now_s = float(second)
        loads.append(meter.after(2.0 * second if second <= 150 else 300.0))
    assert loads[0] == 2.0 / LOAD_WINDOW_S
    assert loads[149] == pytest.approx(2.0, rel=0.02)
    assert loads[179] == pytest.approx(1.0, rel=0.05)
    assert loads[-1] == 0.0


def test_the_time_of_a_request_is_known_once_one_has_come():
    assert published(0.0, 0.0, 0, 0.0)["request_s"] == 0.0
    assert published(0.0, 12.0, 4, 0.0)["request_s"] == 3.0


def test_a_number_of_replicas_is_a_fixed_one():
    assert _model(replicas=2).replicas == ReplicaSettings(min=2, max=2)
    assert _model(replicas=2).replicas.fixed
    assert not _model(replicas={"min": 0, "max": 2}).replicas.fixed


@pytest.mark.parametrize("replicas", [0, {"min": 3, "max": 2}, {"min": -1}, {"most": 3}, "2", 1.5])
def test_a_wrong_number_of_replicas_is_refused(replicas: object):
    with pytest.raises(ValueError, match="replicas"):
        _model(replicas=replicas)


def _model(**fields: Any) -> ModelSettings:
    return ModelSettings.model_validate({"id": "m", "family": "flux_kontext", "weights": "w", **fields})
