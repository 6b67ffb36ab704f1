"""From a request's body to an `EditJob`, and from the job's pictures back to the answer's.

Both halves are plain functions over bytes and arrays; the deployments only decide where they run.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from serve.auth import ANYONE, Principal
from serve.codec import (
    ONLY_PNG,
    Note,
    auto_size,
    compose,
    cover,
    cover_mask,
    decode_base64,
    decode_mask,
    decode_picture,
    draw_size,
    drawn_note,
    encode,
    fit_reference,
    told_prompt,
    untouched_note,
)
from serve.errors import ModelNotAllowed, ModelNotFound, UnsupportedParameter
from serve.schema import EditRequest, parse, parse_form
from serve.settings import LimitSettings, ModelSettings, Provenance, Settings
from serve.types import EditJob, Form, ModelFacts, OutputFormat, Picture, PictureFormat, Pixels, Size

MAX_SEED = 2**64
RANDOM_SEEDS = 2**53
"""Seeds that are drawn stay below the integers that JavaScript's JSON reads exactly."""
SHOWN_CHARACTERS = 128
"""Of an unknown model's name, which may be as long as the body; no known one is longer."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose request it is. fingerprint: whether that of the edit is wanted. idempotency_key: that it was sent with, or
    empty; a seed that is drawn follows from it, so that the same request again draws the same. trace: what work for it
    is told to be a part of, as W3C's headers have it; empty where the request is not traced.
    """

    request_id: str
    principal: Principal = ANYONE
    fingerprint: bool = False
    idempotency_key: str = ""
    trace: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Frame:
    """What the answer needs of the request once its pictures are drawn.

    canvas: (H, W, 3) at the output size. mask: (H, W), 255 where edited, or None. compression: 0 to 100.
    """

    canvas: Pixels
    mask: Pixels | None
    seeds: tuple[int, ...]
    output_format: OutputFormat
    compression: int
    by_url: bool

    @property
    def size(self) -> Size:
        height, width = self.canvas.shape[:2]
        return width, height


@dataclass(frozen=True, slots=True)
class PreparedEdit:
    """model: the id, aliases resolved. job is None where strength is 0: the answer is then the canvas itself.

    notes: what the file of each seed tells of its making; empty where the configuration wants none. fingerprint: of all
    that was asked for, in whichever form it came; empty where it was not wanted. stream: whether it is answered by
    events. caller: the request's `user` and `safety_identifier`, for the log.
    """

    origin: Origin

    model: str
    job: EditJob | None
    frame: Frame
    notes: tuple[Note, ...]
    fingerprint: str
    stream: bool
    caller: tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The frame's canvas (H, W, 3) and mask (H, W) or None, at the size that the model draws."""

    canvas: Pixels
    mask: Pixels | None


def read(body: bytes | Form) -> EditRequest:
    """The request in a body, JSON or a form. Raises an InvalidRequest that names the field."""
    return parse_form(body) if isinstance(body, Form) else parse(body)


def prepare(request: EditRequest, origin: Origin, settings: Settings, facts: Mapping[str, ModelFacts]) -> PreparedEdit:
    """Check a request against the limits and the model, and decode its pictures.

    facts: by model id. Raises an InvalidRequest or ModelNotFound that names the parameter at fault.
    """
    model = served_model(request.model or "", settings)
    refuse_other_models(origin.principal, model)
    known = facts[model.id]
    _refuse_what_the_model_cannot(request, model.id, known)
    fingerprint = _fingerprint(request, settings.limits) if origin.fingerprint or origin.idempotency_key else ""
    frame, drawn = _source(request, _first_seed(request, origin, fingerprint), settings.limits, known)
    references = tuple(_references(request, settings.limits, known))
    strength = known.default_strength if request.strength is None else request.strength
    job = None if strength == 0 else _job(request, origin.request_id, drawn, references, frame.seeds, strength, known)
    notes = _notes(settings.provenance, model.id, job, frame, known)
    caller = (request.user, request.safety_identifier)
    return PreparedEdit(origin, model.id, job, frame, notes, fingerprint, request.stream, caller)


def served_model(name: str, settings: Settings) -> ModelSettings:
    """The model of that id or alias; an empty name is the default model. Raises ModelNotFound."""
    model = settings.model(name)
    if model is None:
        shown = name[:SHOWN_CHARACTERS]
        raise ModelNotFound(f"the model {shown!r} does not exist; see GET /v1/models", param="model")
    return model


def refuse_other_models(principal: Principal, model: ModelSettings) -> None:
    """Raises ModelNotAllowed where the caller may not use it."""
    if not principal.may_use((model.id, *model.aliases)):
        raise ModelNotAllowed(f"this API key is not for the model {model.id}", param="model")


def finish(frame: Frame, pictures: Sequence[Pixels] | None, notes: Sequence[Note] = ()) -> list[bytes]:
    """The encoded outputs: each picture composed with the canvas under the mask. None: the canvas for every seed.

    notes: one a picture, or none at all.
    """
    drawn = [frame.canvas] * len(frame.seeds) if pictures is None else pictures
    told = notes or [None] * len(drawn)
    return [
        encode(compose(frame.canvas, one, frame.mask), frame.output_format, frame.compression, note)
        for one, note in zip(drawn, told, strict=True)
    ]


def _refuse_what_the_model_cannot(request: EditRequest, model: str, facts: ModelFacts) -> None:
    if len(request.images) > facts.max_images:
        raise UnsupportedParameter(
            f"images holds {len(request.images)} pictures; the model {model} takes {facts.max_images}",
            param=f"images[{facts.max_images}]",
        )
    if not facts.has_guidance and request.guidance_scale not in (None, facts.default_guidance):
        raise UnsupportedParameter(
            f"the model {model} has no guidance; guidance_scale can only be {facts.default_guidance:g}",
            param="guidance_scale",
        )


def _source(request: EditRequest, seed: int, limits: LimitSettings, facts: ModelFacts) -> tuple[Frame, _Drawn]:
    """The source and its mask at the sizes that are needed of them. At full size they end here."""
    source = _decode(request, 0, limits)
    mask = _decode_mask(request, source, limits)
    frame = _frame(request, seed, source, mask, facts)
    drawn = draw_size(frame.size, facts)
    if drawn == frame.size:
        return frame, _Drawn(frame.canvas, frame.mask)
    return frame, _Drawn(cover(source, drawn), None if mask is None else cover_mask(mask, drawn))


def _references(request: EditRequest, limits: LimitSettings, facts: ModelFacts) -> Iterator[Pixels]:
    """Decoded and fitted one after the other, because a picture may take hundreds of megabytes at full size."""
    for i in range(1, len(request.images)):
        yield fit_reference(_decode(request, i, limits), facts.reference_pixels, facts.multiple)


def _decode(request: EditRequest, index: int, limits: LimitSettings) -> Pixels:
    param = f"images[{index}]"
    data = _file(request.images[index], param, limits, limits.image_formats)
    return decode_picture(data, param, limits.image_pixels, limits.image_formats)


def _decode_mask(request: EditRequest, source: Pixels, limits: LimitSettings) -> Pixels | None:
    if request.mask is None:
        return None
    height, width = source.shape[:2]
    return decode_mask(_file(request.mask, "mask", limits), request.mask_mode, (width, height), limits.image_pixels)


def _fingerprint(request: EditRequest, limits: LimitSettings) -> str:
    """Of the pictures' bytes and of every other field that says what is to be done."""
    digest = hashlib.blake2b(digest_size=16)
    pictures = [(f"images[{index}]", picture) for index, picture in enumerate(request.images)]
    for param, picture in [*pictures, *([("mask", request.mask)] if request.mask is not None else [])]:
        formats = ONLY_PNG if param == "mask" else limits.image_formats
        digest.update(hashlib.blake2b(_file(picture, param, limits, formats)).digest())
    fields = request.model_dump(exclude={"images", "user", "safety_identifier", "response_format"})
    fields |= {"mask": request.mask is not None, "by_url": request.by_url}
    digest.update(json.dumps(fields, sort_keys=True).encode())
    return digest.hexdigest()


def _first_seed(request: EditRequest, origin: Origin, fingerprint: str) -> int:
    if request.seed is not None:
        return request.seed
    if not origin.idempotency_key:
        return secrets.randbelow(RANDOM_SEEDS)
    name = json.dumps([origin.principal.name, origin.idempotency_key, fingerprint])
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) % RANDOM_SEEDS


def _file(picture: Picture, param: str, limits: LimitSettings, formats: Sequence[PictureFormat] = ONLY_PNG) -> bytes:
    """The bytes of a picture, in whichever form it was sent. A file of a form keeps the limit already."""
    return picture if isinstance(picture, bytes) else decode_base64(picture, param, limits.image_bytes, formats)


def _frame(request: EditRequest, seed: int, source: Pixels, mask: Pixels | None, facts: ModelFacts) -> Frame:
    height, width = source.shape[:2]
    size = auto_size((width, height), facts) if request.size == "auto" else _parse_size(request.size)
    return Frame(
        canvas=cover(source, size),
        mask=None if mask is None else cover_mask(mask, size),
        seeds=tuple((seed + i) % MAX_SEED for i in range(request.n)),
        output_format=request.output_format,
        compression=request.output_compression,
        by_url=request.by_url,
    )


def _job(
    request: EditRequest,
    request_id: str,
    drawn: _Drawn,
    references: tuple[Pixels, ...],
    seeds: tuple[int, ...],
    strength: float,
    facts: ModelFacts,
) -> EditJob:
    return EditJob(
        request_id=request_id,
        prompt=request.prompt,
        canvas=drawn.canvas,
        references=references,
        mask=drawn.mask,
        seeds=seeds,
        steps=facts.default_steps if request.num_inference_steps is None else request.num_inference_steps,
        strength=strength,
        guidance=facts.default_guidance if request.guidance_scale is None else request.guidance_scale,
        priority=request.priority,
        previews=request.partial_images,
    )


def _notes(
    provenance: Provenance, model: str, job: EditJob | None, frame: Frame, facts: ModelFacts
) -> tuple[Note, ...]:
    """One a seed, as if that seed had been asked for alone."""
    if provenance == "none":
        return ()
    size = "x".join(map(str, frame.size))
    if job is None:
        return (untouched_note(size),) * len(frame.seeds)
    parameters = {"num_inference_steps": job.steps, "strength": job.strength, "size": size}
    guidance = {"guidance_scale": job.guidance} if facts.has_guidance else {}
    prompt = told_prompt(job.prompt) if provenance == "prompt" else {}
    return tuple(drawn_note({"model": model, "seed": seed, **parameters, **guidance, **prompt}) for seed in frame.seeds)


def _parse_size(size: str) -> Size:
    width, height = size.split("x")
    return int(width), int(height)
