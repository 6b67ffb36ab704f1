"""What a start needs of the machine and of the configuration as a whole, and refuses to go without."""

from serve.client import is_loopback
from serve.errors import ConfigurationError
from serve.settings.load import Settings


def refuse_open_server(settings: Settings, host: str) -> None:
    """host: that is listened on; empty where it is not known. Raises ConfigurationError."""
    if settings.auth.keys_file or settings.auth.allow_anonymous or is_loopback(host):
        return
    where = f"{host} can be reached by others" if host else "the address that Ray Serve listens on may be a public one"
    raise ConfigurationError(
        f"{where}, and there are no API keys: set auth.keys_file (`retouch keys create`), or auth.allow_anonymous: true"
    )


def gpus_wanted(settings: Settings) -> float:
    return sum(max(1, model.replicas.min) * model.num_gpus for model in settings.models)


def refuse_missing_gpus(settings: Settings, found: float) -> None:
    """Raises ConfigurationError. Ray would wait for them for ever."""
    wanted = gpus_wanted(settings)
    if wanted > found:
        raise ConfigurationError(f"the models ask for {wanted:g} GPUs (num_gpus, replicas); this machine has {found:g}")


def object_store_bytes(settings: Settings) -> int:
    """Of Ray's shared memory: the bodies, and the pixels decoded from them."""
    return 2 * settings.limits.bodies_bytes
