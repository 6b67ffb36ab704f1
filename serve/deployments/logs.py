"""Our log lines go where Ray Serve's go: to the replica's file, with the request's id beside them."""

import logging

PACKAGE = "serve"


def adopt_serve_logging(level: str) -> None:
    """Send the package's loggers to the handlers that Ray Serve gave this replica."""
    logger = logging.getLogger(PACKAGE)
    logger.handlers = logging.getLogger("ray.serve").handlers
    logger.setLevel(level)
    logger.propagate = False
