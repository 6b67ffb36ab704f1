"""The page around the edit: parameters, errors, its keys, its headers, and that everybody can use it."""

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.http.browser.axe import violations
from tests.http.browser.playground import PHOTO, Playground
from tests.http.conftest import KONTEXT, TINY, Server
from tests.http.line import Line

NARROW = 360
SMALLEST_TARGET = 24
"""CSS pixels, https://www.w3.org/TR/WCAG22/#target-size-minimum."""
CONTROLS = "button, select, textarea, a, input:not(.unseen), label.button"


def test_the_page_comes_with_a_strict_policy_and_is_asked_for_again(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    again = http.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert http.get("/playground/app.js").headers["content-type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize("path", ["/playground/nothing.js", "/playground/", "/playground/../settings.py"])
def test_nothing_else_is_served_beside_the_page(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_the_page_is_no_part_of_the_api_description(http: httpx.Client) -> None:
    assert not [path for path in http.get("/openapi.json").json()["paths"] if path == "/" or "playground" in path]


def test_the_reference_comes_from_this_server_as_well(page: Page) -> None:
    page.get_by_role("link", name="API reference").click()
    expect(page.get_by_text("/v1/images/edits").first).to_be_visible()


@pytest.mark.parametrize("name", [TINY, KONTEXT])
def test_parameters_have_the_models_defaults_and_ranges(page: Page, http: httpx.Client, name: str) -> None:
    model = http.get(f"/v1/models/{name}").json()
    page.locator("#model").select_option(name)
    for field, default in model["defaults"].items():
        expect(page.locator(f"#{field}")).to_have_value(str(default).removesuffix(".0"))
    for field in ("n", "num_inference_steps", "strength", "guidance_scale", "partial_images"):
        for control in (page.locator(f"#{field}"), page.locator(f"#{field}-slider")):
            bounds = [float(control.get_attribute(bound) or "nan") for bound in ("min", "max")]
            assert bounds == [model["ranges"][field]["min"], model["ranges"][field]["max"]]
    assert page.locator("#size option").evaluate_all("all => all.map((one) => one.value)") == model["sizes"]


def test_what_a_model_does_not_honour_is_not_shown(page: Page) -> None:
    def without_guidance(route: Route) -> None:
        listed = route.fetch().json()
        listed["data"][0]["fields"].remove("guidance_scale")
        route.fulfill(json=listed)

    page.route("**/v1/models", without_guidance)
    page.reload()
    expect(page.locator("#strength")).to_be_visible()
    expect(page.locator("#guidance_scale")).to_have_count(0)
    page.locator("#model").select_option(KONTEXT)
    expect(page.locator("#guidance_scale")).to_be_visible()


def test_the_quality_is_there_for_formats_that_have_one(playground: Playground) -> None:
    expect(playground.page.locator("#output_compression")).to_be_hidden()
    playground.choose(PHOTO)
    playground.ask(output_format="jpeg", output_compression=40, num_inference_steps=1)
    playground.edit()
    assert playground.download().startswith(b"\xff\xd8")
    assert dict(playground.sent())["output_compression"] == "40"


def test_the_models_defaults_come_back(page: Page, playground: Playground) -> None:
    playground.ask(num_inference_steps=3, seed=4, size="256x256")
    playground.press("The model's defaults")
    expect(page.locator("#num_inference_steps-slider")).to_have_value(
        page.locator("#num_inference_steps").input_value()
    )
    expect(page.locator("#seed")).to_have_value("")
    expect(page.locator("#size")).to_have_value("auto")


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("num_inference_steps", "101", "from 1 to 100"),
        ("seed", "seven", "seed"),
        ("prompt", " ", "white space"),
    ],
)
def test_an_error_stands_at_the_field_that_it_is_about(
    playground: Playground, refusals: list[int], field: str, value: str, told: str
) -> None:
    refusals.append(400)
    playground.choose(PHOTO)
    playground.ask(**{"prompt": "make it blue", field: value})
    playground.press("Edit")
    place = playground.page.locator(f"[data-param={field}]")
    expect(place.get_by_role("alert")).to_contain_text(told)
    control = playground.page.locator(f"#{field}")
    expect(control).to_be_focused()
    expect(control).to_have_attribute("aria-invalid", "true")
    expect(control).to_have_attribute("aria-errormessage", f"error-{field}")
    playground.ask(**{"prompt": "make it blue", "strength": "0", field: "3"})
    playground.edit()
    expect(playground.page.get_by_role("alert")).to_have_count(0)


def test_an_error_that_is_about_no_field_stands_beside_the_button(playground: Playground, refusals: list[int]) -> None:
    refusals.append(503)
    error = {"message": "no model is there", "type": "server_error", "param": None, "code": "backend_unavailable"}
    playground.page.route("**/v1/images/edits", lambda route: route.fulfill(status=503, json={"error": error}))
    playground.choose(PHOTO)
    playground.ask()
    playground.press("Edit")
    expect(playground.page.locator(".run").get_by_role("alert")).to_have_text("no model is there")


def test_a_connection_that_breaks_off_is_told_as_that(context: BrowserContext, server: Server, tmp_path: Path) -> None:
    with Line(server.url) as line:
        page = context.new_page()
        page.goto(line.url)
        playground = Playground(page, tmp_path)
        playground.choose(PHOTO)
        playground.ask(num_inference_steps=100, size="512x512")
        playground.press("Edit")
        expect(page.locator("#status")).to_contain_text("Step ")
        line.cut()
        expect(page.locator(".run").get_by_role("alert")).to_contain_text("broke off")
        expect(page.locator("#run")).to_be_visible()
        playground.ask(num_inference_steps=1)
        playground.edit()


def test_a_stream_that_ends_without_a_result_is_none_that_is_done(playground: Playground) -> None:
    def end_at_once(route: Route) -> None:
        route.fulfill(status=200, content_type="text/event-stream", body=": nothing more\n\n")

    playground.page.route("**/v1/images/edits", end_at_once)
    playground.choose(PHOTO)
    playground.ask()
    playground.press("Edit")
    expect(playground.page.locator(".run").get_by_role("alert")).to_contain_text("broke off")


def test_without_a_photograph_it_asks_for_one(playground: Playground) -> None:
    playground.ask()
    playground.press("Edit")
    expect(playground.page.locator("#drop").get_by_role("alert")).to_have_text("Choose a photograph to edit.")


def test_a_file_that_is_no_picture_is_named(page: Page) -> None:
    page.locator("#choose").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"nothing"})
    told = page.locator("#drop").get_by_role("alert")
    expect(told).to_have_text("notes.txt is not a picture that this browser can read")


def test_a_server_that_asks_for_a_key_gets_it(page: Page, refusals: list[int]) -> None:
    def with_key(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer secret":
            return route.continue_()
        error = {"message": "a key is needed", "type": "authentication_error", "param": None, "code": "missing_api_key"}
        return route.fulfill(status=401, json={"error": error})

    refusals.append(401)
    expect(page.locator("#key")).to_be_hidden()
    page.route("**/v1/models", with_key)
    page.reload()
    expect(page.locator("#key-field").get_by_role("alert")).to_have_text("a key is needed")
    page.get_by_label("API key").fill("secret")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#num_inference_steps")).to_be_visible()
    assert page.evaluate("() => [localStorage.length, sessionStorage.length]") == [0, 1]
    page.reload()
    expect(page.locator("#num_inference_steps")).to_be_visible()


def test_it_works_behind_a_path_prefix(page: Page, server: Server) -> None:
    asked: list[str] = []

    def forward(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(response=route.fetch(url=route.request.url.replace("/tools/retouch", "")))

    page.route("**/tools/retouch/**", forward)
    page.goto(f"{server.url}/tools/retouch/")
    expect(page.locator("#num_inference_steps")).to_be_visible()
    assert f"{server.url}/tools/retouch/v1/models" in asked
    assert f"{server.url}/tools/retouch/playground/app.js" in asked
    page.unroute_all(behavior="wait")


def test_it_fits_a_phone(playground: Playground) -> None:
    page = playground.page
    page.set_viewport_size({"width": NARROW, "height": 740})
    _assert_fits(page)
    playground.choose(PHOTO)
    playground.paint((0.3, 0.3), (0.7, 0.7))
    _assert_fits(page)
    playground.ask(n=2, num_inference_steps=1)
    playground.edit()
    _assert_fits(page)
    playground.press("Show as code")
    _assert_fits(page)


def test_a_phone_shows_how_far_an_edit_is_beside_its_pictures(playground: Playground) -> None:
    page = playground.page
    page.set_viewport_size({"width": NARROW, "height": 740})
    playground.choose(PHOTO)
    playground.ask(n=4, num_inference_steps=100, size="256x256")
    playground.press("Edit")
    expect(page.locator(".result img.after").first).to_be_visible()
    for control in ("#cancel", "#progress", "#status"):
        expect(page.locator(control)).to_be_in_viewport(ratio=1)
    _assert_fits(page)
    playground.press("Cancel")
    expect(page.locator("#status")).to_have_text("Cancelled")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_mend(playground: Playground, scheme: str) -> None:
    page = playground.page
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # pyright: ignore[reportArgumentType]
    assert violations(page) == []
    playground.choose(PHOTO)
    assert violations(page) == []
    page.locator("#prompt").fill("")
    playground.ask(num_inference_steps=1, n=2)
    playground.edit()
    assert violations(page) == []
    playground.press("Show as code")
    assert violations(page) == []


def test_who_wants_less_motion_sees_none(playground: Playground) -> None:
    page = playground.page
    page.emulate_media(reduced_motion="reduce")
    playground.choose(PHOTO)
    playground.ask(num_inference_steps=50, size="512x512")
    playground.press("Edit")
    expect(page.locator(".drawing")).to_be_visible()
    assert page.evaluate("() => document.getAnimations().length") == 0
    playground.press("Cancel")


def _assert_fits(page: Page) -> None:
    assert page.evaluate("() => document.documentElement.scrollWidth") <= NARROW
    modal = page.locator("dialog[open]")
    place = modal if modal.count() else page.locator("body")
    for control in place.locator(CONTROLS).all():
        box = control.bounding_box()
        if box is None or control.evaluate("control => getComputedStyle(control).opacity") == "0":
            continue
        assert box["x"] >= 0, control
        assert box["x"] + box["width"] <= NARROW, control
        is_text_or_slider = control.evaluate("control => control.matches('a:not(.button), [type=range]')")
        assert is_text_or_slider or min(box["width"], box["height"]) >= SMALLEST_TARGET, control
