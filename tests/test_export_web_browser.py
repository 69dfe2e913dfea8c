"""The web page in Chromium: probabilities against Keras, requests, errors, looks."""

import base64
import functools
import http.server
import re
import shutil
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image
from playwright.sync_api import expect, sync_playwright
from support.exports import enliven
from support.images import smooth
from support.servers import Server

from keras_efficientnet import export
from keras_efficientnet.models import make_model
from keras_efficientnet.preprocessing import image_for_evaluation

pytestmark = pytest.mark.browser

LABELS = [f"name of class {index}" for index in range(10)]
PICTURES = {  # opaque ones: where alpha is not 255, a browser gives other colours than those stored
    "wide.png": lambda: tf.io.encode_png(smooth(70, 131, 0)),
    "tall and large.png": lambda: tf.io.encode_png(smooth(1300, 900, 1)),
    "own size.png": lambda: tf.io.encode_png(smooth(32, 32, 2)),
    "alpha.png": lambda: tf.io.encode_png(np.pad(smooth(81, 80, 3), ((0, 0), (0, 0), (0, 1)), constant_values=255)),
    "grey.png": lambda: tf.io.encode_png(smooth(64, 64, 4)[:, :, :1]),
}
NO_RELAXED_SIMD = """
const instantiate = WebAssembly.instantiate;
WebAssembly.instantiate = (source, ...others) => source.byteLength < 100
  ? Promise.reject(new Error("as in an older browser")) : instantiate(source, ...others);
"""
DROP = """([type, name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  if (name) data.items.add(new File([bytes], name));
  const event = type === "drop" ? new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true })
    : new ClipboardEvent(type, { clipboardData: data, bubbles: true });
  document.body.dispatchEvent(event);
}"""
COLOURS = """() => [...document.querySelectorAll("h1, p, a, .name, .share, label.button")]
  .filter((element) => element.checkVisibility()).map((element) => {
    let back = element;
    while (getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)") back = back.parentElement;
    return [element.textContent.trim(), getComputedStyle(element).color, getComputedStyle(back).backgroundColor];
  })"""


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *arguments):
        pass


@pytest.fixture(scope="module")
def model(tiny_b0):
    keras.utils.set_random_seed(1)
    model = enliven(make_model(tiny_b0, classes=10))
    kernel = model.get_layer("predictions").kernel
    kernel.assign(kernel / 6)  # else one class has all the probability
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("web") / "page"
    export.to_web(model, path, labels=LABELS, title="Ten classes")
    return path


@pytest.fixture(scope="module")
def address(folder):
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium():
    """The machine's, else the one that `playwright install chromium` has brought."""
    place = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=place, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, address):
    """Opens the page in a context of these options; it collects its requests, and what went wrong in it."""
    contexts = []

    def open_page(script=None, url=address, **options):
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.asked, page.wrong = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        if script:
            page.add_init_script(script)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def page(open_page):
    return ready(open_page())


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """The path of a picture; or of all, by name."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, encode in PICTURES.items():
        (folder / name).write_bytes(encode().numpy())
    (folder / "thesis.docx").write_bytes(b"PK\x03\x04 no picture")
    return lambda name: folder / name


def ready(page):
    expect(page.locator("#status")).to_have_text("Ready for an image.", timeout=60_000)
    return page


def result(page):
    """(name, probability) of the bars, once they are there."""
    expect(page.locator("#status")).to_contain_text("Most likely", timeout=60_000)
    rows = page.locator("#classes li").all()
    return [(row.locator(".name").inner_text(), float(row.get_attribute("data-probability"))) for row in rows]


def classify(page, path):
    page.set_input_files("#file", path)
    return result(page)


def expected(model, path):
    pixels = image_for_evaluation(path.read_bytes(), 32)
    probabilities = model(pixels[tf.newaxis], training=False).numpy()[0]
    return [(LABELS[index], probabilities[index]) for index in np.argsort(-probabilities)[:5]]


def assert_same(found, wanted, tolerance=1e-4):
    assert [name for name, _ in found] == [name for name, _ in wanted]
    np.testing.assert_allclose([share for _, share in found], [share for _, share in wanted], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", PICTURES)
def test_the_page_gives_the_probabilities_of_keras(model, page, picture, name):
    assert_same(classify(page, picture(name)), expected(model, picture(name)))
    assert not page.wrong


def test_a_photo_is_turned_upright_and_decoded_to_the_last_bit(model, page, tmp_path):
    """TensorFlow's own default decodes by a faster transform, up to three levels of brightness beside this one."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # lies on its left side
    Image.fromarray(smooth(90, 130, 5)).save(tmp_path / "photo.jpg", exif=exif)
    stored = tf.io.decode_jpeg((tmp_path / "photo.jpg").read_bytes(), dct_method="INTEGER_ACCURATE").numpy()
    (tmp_path / "upright.png").write_bytes(tf.io.encode_png(np.rot90(stored, -1)).numpy())
    assert_same(classify(page, tmp_path / "photo.jpg"), expected(model, tmp_path / "upright.png"))


def test_what_is_compared_are_different_and_doubtful_answers(model, picture):
    answers = [expected(model, picture(name)) for name in PICTURES]
    assert len({answer[0][0] for answer in answers}) > 1
    assert all(0.2 < answer[0][1] < 0.9 and answer[4][1] > 0.001 for answer in answers)


def test_names_percentages_bars_and_milliseconds_are_shown(model, page, picture):
    classify(page, picture("wide.png"))
    [(name, share), *_] = expected(model, picture("wide.png"))
    expect(page.locator("#status")).to_have_text(f"Most likely: {name}, {100 * share:.1f} %")
    first = page.locator("#classes li").first
    assert first.inner_text().split("\n") == [name, f"{100 * share:.1f} %"]
    page.wait_for_timeout(500)  # the bar grows for a quarter of a second
    track, bar = first.locator(".track").bounding_box(), first.locator(".bar").bounding_box()
    assert bar["width"] / track["width"] == pytest.approx(share, abs=0.01)
    assert re.fullmatch(r"\d+ ms: \d+ to prepare the image, \d+ for the network\.", page.inner_text("#time"))
    image, window = page.locator("#image").bounding_box(), page.locator("#window").bounding_box()
    assert window["width"] / image["width"] == pytest.approx(35 / 131, abs=0.01)  # 32 / 64 of the shorter side
    assert page.get_attribute("#image", "alt") == "The image wide.png"


def test_a_browser_without_relaxed_simd_takes_the_compatible_build(model, open_page, picture):
    page = ready(open_page(NO_RELAXED_SIMD))
    assert_same(classify(page, picture("wide.png")), expected(model, picture("wide.png")))
    wasm = [url.rpartition("/")[2] for url in page.asked if url.endswith(".wasm")]
    assert wasm == ["litert_wasm_compat_internal.wasm"]


def test_the_page_asks_its_own_server_alone(page, address, picture):
    classify(page, picture("wide.png"))
    assert len(page.asked) > 10
    assert not [url for url in page.asked if not url.startswith((address, f"blob:{address}"))]


def test_what_the_page_would_send_elsewhere_is_refused(page):
    elsewhere = Server()
    elsewhere.files["/"] = b""
    code = """async (url) => {
      const refused = [];
      document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
      for (const send of [() => fetch(url), () => fetch(url, { method: "POST", mode: "no-cors", body: "pixels" }),
        () => navigator.sendBeacon(url, "pixels"), () => new WebSocket(url.replace("http", "ws")),
        () => new EventSource(url), () => Object.assign(new Image(), { src: url }),
        () => document.body.append(Object.assign(document.createElement("iframe"), { src: url })),
        () => document.body.append(Object.assign(document.createElement("script"), { src: url }))]) {
        try { await send(); } catch {}
      }
      const form = Object.assign(document.createElement("form"), { action: url, method: "post" });
      document.body.append(form);
      form.submit();
      await new Promise((done) => setTimeout(done, 500));
      return refused;
    }"""
    refused = page.evaluate(code, elsewhere.url + "/")
    elsewhere.stop()
    assert not elsewhere.requests
    assert {"connect-src", "img-src", "frame-src", "script-src-elem", "form-action"} <= {*refused}
    assert refused.count("connect-src") == 5


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_can_be_dropped_and_pasted(model, page, picture, kind):
    page.evaluate(DROP, [kind, "a.png", base64.b64encode(picture("wide.png").read_bytes()).decode()])
    assert_same(result(page), expected(model, picture("wide.png")))
    page.evaluate(DROP, [kind, "", ""])
    expect(page.locator("#error")).to_contain_text("That was not a file.")


def test_what_is_no_picture_is_named_and_the_next_picture_works(model, page, picture):
    classify(page, picture("wide.png"))
    page.set_input_files("#file", picture("thesis.docx"))
    expect(page.get_by_role("alert")).to_contain_text("“thesis.docx” ")
    expect(page.get_by_role("alert")).to_contain_text("is not an image that this browser can read.")
    assert page.locator("#classes li").count() == 0
    assert_same(classify(page, picture("grey.png")), expected(model, picture("grey.png")))
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_page_opened_as_a_file_says_that_it_needs_a_server(folder, open_page):
    page = open_page(url=folder.joinpath("index.html").as_uri())
    expect(page.locator("#unstarted")).to_contain_text("it does not run from a file")
    expect(page.locator("#unstarted")).to_contain_text("python -m http.server")
    expect(page.locator("#unstarted")).to_be_visible()
    assert page.locator("body").evaluate("(body) => getComputedStyle(body).display") == "flex"  # it has its style


def test_a_page_that_has_started_does_not_say_so(page):
    expect(page.locator("#unstarted")).to_be_hidden()


def test_a_browser_without_webassembly_is_told(open_page):
    page = open_page("delete globalThis.WebAssembly")
    expect(page.get_by_role("alert")).to_contain_text("This browser does not run WebAssembly")
    assert not page.wrong


def test_a_file_that_was_left_out_of_the_upload_is_named(chromium, address, open_page):
    page = open_page(url="about:blank")
    page.route("**/model.tflite", lambda route: route.fulfill(status=404))
    page.goto(address)
    expect(page.get_by_role("alert")).to_contain_text("model.tflite could not be loaded (status 404).")


def test_the_page_works_with_the_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.id") == "file"
    assert page.evaluate("() => getComputedStyle(document.activeElement.parentElement).outlineStyle") == "solid"
    with page.expect_file_chooser(timeout=10_000):
        page.keyboard.press("Space")


def luminance(colour):
    """As WCAG 2 defines it, of "rgb(1, 2, 3)"."""
    values = np.array([int(value) for value in re.findall(r"\d+", colour)[:3]]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_light_and_dark(open_page, picture, scheme):
    page = ready(open_page(color_scheme=scheme))
    classify(page, picture("wide.png"))
    texts = page.evaluate(COLOURS)
    page.set_input_files("#file", picture("thesis.docx"))
    expect(page.get_by_role("alert")).to_be_visible()
    texts += page.evaluate(COLOURS)
    assert len(texts) > 15
    for text, colour, back in texts:
        light, dark = sorted((luminance(colour), luminance(back)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, colour, back)
    assert (luminance(texts[0][1]) > 0.5) == (scheme == "dark")


def test_a_narrow_phone_needs_no_scrolling_to_the_side_and_offers_its_camera(open_page, picture):
    page = ready(open_page(viewport={"width": 320, "height": 640}, has_touch=True, is_mobile=True))
    expect(page.get_by_text("Take a photo")).to_be_visible()
    classify(page, picture("wide.png"))
    expect(page.get_by_text("Take a photo")).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") == 320
