"""From diffusers weights to compiled components in a Triton model repository.

`retouch build-engines` is the command; `build.build_model` does the work: for each component of a model it exports the
torch module to ONNX, compiles that where the backend needs it, compares it with torch, and puts it into its place.
"""
