"""Retouch, a self-hosted image-edit server.

`deployments` is the Ray Serve application, `engine` the batching, `families` the models, `codec` the pictures.
"""
