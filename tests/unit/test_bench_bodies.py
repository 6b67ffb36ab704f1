"""The bodies of requests: JSON as this server reads it, multipart as OpenAI's own client sends it."""

import base64
import io
from email.message import MIMEPart
from email.parser import BytesParser
from email.policy import HTTP

import pytest
from openai import AsyncOpenAI
from PIL import Image

from benchmarks.arrivals import Closed
from benchmarks.bodies import Shape
from benchmarks.drive import Bounds, drive
from benchmarks.figures import figures
from benchmarks.pictures import Pictures
from benchmarks.plan import Edit, MixedPlan
from benchmarks.wire import Server
from benchmarks.workload import Kind, Workload
from serve.schema import parse
from tests.unit.bench_peer import Asked, Peer, serving

Part = tuple[str, str | tuple[str, bytes]]
"""Name, then text, or a file's type and content."""


def plan(**fields: object) -> MixedPlan:
    kind = {"name": "a", "size": "256x256", "picture": "40x30", "steps": 4, "strength": 0.5, "guidance": 2.5, **fields}
    return MixedPlan(Workload(name="x", kinds=[Kind.model_validate(kind)]), seed=1)


def body(edit: Edit, pictures: Pictures, shape: Shape | None = None) -> bytes:
    return b"".join((shape or Shape()).body(edit, pictures).chunks)


def parts(asked: Asked) -> list[Part]:
    """A multipart request as the standard library's parser of MIME reads it."""
    head = f"Content-Type: {asked.headers['Content-Type']}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + asked.body)
    assert not message.defects
    return [_part(part) for part in message.iter_parts()]


def _part(part: MIMEPart) -> Part:
    name = part.get_param("name", header="content-disposition")
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return str(name), (part.get_content_type(), content) if part.get_filename() else content.decode()


def test_the_server_reads_from_json_what_was_planned():
    edit = (planned := plan(images=2, mask="half", n=3)).edit(0)
    request = parse(body(edit, planned.pictures, Shape(model="tiny")))
    assert [base64.b64decode(image) for image in request.images] == [
        planned.pictures.encoded(image).png for image in edit.images
    ]
    assert Image.open(io.BytesIO(base64.b64decode(request.mask or ""))).size == (40, 30)
    assert (request.model, request.n, request.size, request.response_format) == ("tiny", 3, "256x256", "b64_json")
    assert (request.num_inference_steps, request.strength, request.guidance_scale) == (4, 0.5, 2.5)
    assert (request.prompt, request.seed) == (edit.fields["prompt"], edit.fields["seed"])


@pytest.mark.parametrize("images", [1, 2])
async def test_multipart_is_what_openais_client_sends(images: int):
    """Names, order and content of the parts; the client sends its text fields first, in an order of its own."""
    planned = plan(images=images, mask="soft")
    edit = planned.edit(0)
    pictures = [planned.pictures.encoded(image).png for image in edit.images]
    files = [(f"{number}.png", picture, "image/png") for number, picture in enumerate(pictures)]
    with serving(Peer()) as peer:
        shape = Shape("multipart", "tiny", frozenset({"all"}))
        await drive(Server(peer.url, shape), planned, Closed(1), Bounds(requests=1))
        extra = {name: edit.fields[name] for name in ("num_inference_steps", "strength", "guidance_scale", "seed")}
        async with AsyncOpenAI(base_url=f"{peer.url}/v1", api_key="none", max_retries=0) as client:
            await client.images.edit(
                image=files if images > 1 else files[0],
                mask=("mask.png", planned.pictures.encoded(edit.mask).png if edit.mask else b"", "image/png"),
                prompt=str(edit.fields["prompt"]),
                model="tiny",
                n=1,
                size="256x256",
                response_format="b64_json",
                extra_body=extra,
            )
        ours, theirs = [parts(asked) for asked in peer.asked]
    texts = [name for name, value in ours if isinstance(value, str)]
    assert [name for name, _ in ours[: len(texts)]] == texts
    assert ours[len(texts) :] == theirs[len(texts) :]
    assert sorted(ours[: len(texts)], key=str) == sorted(theirs[: len(texts)], key=str)


async def test_multipart_leaves_out_fields_beyond_openais_unless_they_are_named_and_says_so():
    planned = plan(extra={"true_cfg_scale": 4.0})
    with serving(Peer()) as peer:
        server = Server(peer.url, Shape("multipart", extra_fields=frozenset({"seed"})))
        run = await drive(server, planned, Closed(1), Bounds(requests=1))
        names = [name for name, _ in parts(peer.asked[0])]
    assert names == ["prompt", "n", "size", "seed", "response_format", "image"]
    assert run.withheld == ["guidance_scale", "num_inference_steps", "strength", "true_cfg_scale"]
    assert run.records[0].row_steps is None
    assert any("num_inference_steps" in note for note in figures(run).notes)
    assert run.records[0].sent_bytes == len(peer.asked[0].body)


async def test_a_body_is_sent_whole_with_its_length():
    with serving(Peer()) as peer:
        run = await drive(Server(peer.url), plan(), Closed(1), Bounds(requests=1))
    assert peer.asked[0].headers["Content-Length"] == str(len(peer.asked[0].body))
    assert "Transfer-Encoding" not in peer.asked[0].headers
    assert run.facts["id"] == "tiny"
