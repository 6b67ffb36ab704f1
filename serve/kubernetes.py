"""The variables that Kubernetes sets in every pod for each Service of its namespace.

A Service named `retouch` or `retouch-…` so brings variables that look like ours and are not.
https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
"""

import re

_SERVICE = r"[A-Z0-9]+(?:_[A-Z0-9]+)*"
_HOST_OR_PORT = re.compile(
    rf"{_SERVICE}_SERVICE_(?:HOST|PORT(?:_[A-Z0-9]+)*)|{_SERVICE}_PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?"
)
_ADDRESS = re.compile(rf"{_SERVICE}_PORT=(?:tcp|udp|sctp)://[^\s]+")


def is_service_variable(name: str, value: str) -> bool:
    """Whether the variable is one of a Service.

    `RETOUCH_SERVER_PORT` is one of a Service `retouch-server` where it holds an address (`tcp://10.0.0.1:8000`), and
    somebody's typo where it holds a number.
    """
    return bool(_HOST_OR_PORT.fullmatch(name) or _ADDRESS.fullmatch(f"{name}={value}"))
