"""The browser page (docs/extra/demo): the engine as WebAssembly has Python's spikes, in Node and in Chromium, and the
page draws, plays and answers."""

import base64
import gzip
import json
import shutil
import subprocess
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import build_demo
import numpy as np
import pytest
import torch

import proxykernels as pk

pytestmark = pytest.mark.slow
EXTRA = build_demo.BUILT.parents[1]
SCREENSHOT = EXTRA.parent / "images" / "browser.png"  # delete it, and the test makes it anew
T = 16
NODE = """
import { readFileSync } from "node:fs";
import { createHash } from "node:crypto";
import { gunzipSync } from "node:zlib";
const [demo, given] = process.argv.slice(-2);
const { Engine, Network } = await import(`${demo}/engine.js`);
const { Recorder } = await import(`${demo}/record.js`);
const engine = await Engine.load(readFileSync(`${demo}/built/engine.wasm`));
const hex = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("hex");
const answers = JSON.parse(readFileSync(given)).map(({ net, T, image, events }) => {
  const network = new Network(engine, gunzipSync(readFileSync(`${demo}/built/${net}.safetensors.gz`)));
  const recorder = new Recorder(network), { H, W } = network;
  const x = image ? Float32Array.from(image) : engine.pack(events, T, H, W), step = H * W;
  const run = recorder.run(x, (t) => (image ? x : x.subarray(t * step, (t + 1) * step)), T);
  const hash = (maps) => maps.reduce((h, map) => h.update(map), createHash("sha256")).digest("hex");
  return {
    outputs: run.steps.map(({ outputs }) => hex(outputs)),
    counts: network.fires ? hex(recorder.whole.counts()) : null,
    layers: Object.fromEntries(recorder.layers.map(({ name }, k) => [name, run.steps.at(-1).layers[k]])),
    maps: Object.fromEntries(recorder.layers.map(({ name }, k) => [name, hash(run.maps[k])])),
    work: run.work,
  };
});
console.log(JSON.stringify(answers));
"""


@pytest.fixture(scope="module")
def built() -> Path:
    """The page's folder, with all that it loads."""
    if not build_demo.is_current(build_demo.BUILT):
        pytest.importorskip("ziglang", reason="compiles the engine to WebAssembly: pip install ziglang")
    build_demo.main([])
    return EXTRA / "demo"


@pytest.fixture(scope="module")
def samples(built) -> dict:
    return json.loads(gzip.decompress((built / "built" / "samples.json.gz").read_bytes()))


def image_of(sample: dict) -> torch.Tensor:
    """As the page has it."""
    return torch.tensor(list(base64.b64decode(sample["pixels"]))).view(1, 1, 28, 28) / 256


def events_of(recording: dict) -> dict:
    return dict(
        zip("txyp", np.frombuffer(base64.b64decode(recording["events"]), np.uint8).reshape(-1, 4).T, strict=True)
    )


def engine_of(built: Path, name: str, folder: Path) -> pk.Engine:
    path = folder / f"{name}.safetensors"
    path.write_bytes(gzip.decompress((built / "built" / f"{path.name}.gz").read_bytes()))
    return pk.load(path)


@pytest.fixture(scope="module")
def in_node(built, samples, tmp_path_factory):
    """What the three networks give in Node: of 12 images twice, and of all recordings."""
    if not shutil.which("node"):
        pytest.skip("Node is not installed: apt-get install nodejs")
    images = [image_of(sample) for sample in samples["images"][:12]]
    tasks = [{"net": net, "T": T, "image": x.flatten().tolist()} for net in ("if", "sigma-delta") for x in images]
    for recording in samples["recordings"]:
        columns = {name: values.tolist() for name, values in events_of(recording).items()}
        tasks.append({"net": "events", "T": samples["T"], "events": columns})
    path = tmp_path_factory.mktemp("node") / "given.json"
    path.write_text(json.dumps(tasks))
    command = ["node", "--input-type=module", "--eval", NODE, str(built), str(path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return images, {"if": found[:12], "sigma-delta": found[12:24], "events": found[24:]}


def bits(tensor: torch.Tensor) -> str:
    return tensor.contiguous().numpy().tobytes().hex()


def check_layers(found: dict, result) -> None:
    assert {name: layer["spikes"] for name, layer in found["layers"].items()} == {
        name: round(result.rates[name] * result.places[name]) for name in found["layers"]
    }
    assert sum(layer["additions"] for layer in found["layers"].values()) > 0
    additions = {name: result.synops.accumulates[name] for name in found["layers"]}
    assert {name: layer["additions"] for name, layer in found["layers"].items()} == additions
    assert found["work"]["additions"] == sum(result.synops.accumulates.values())


def test_integrate_and_fire_in_node(built, in_node, tmp_path):
    images, found = in_node
    engine = engine_of(built, "if", tmp_path)
    net = build_demo.networks(pk.samples.fashion_mnist()[0][: build_demo.CALIBRATION])["if"]["net"]
    for x, answer in zip(images, found["if"], strict=True):
        result = engine(x, T)
        assert result.count().any() and answer["counts"] == bits(result.count())
        check_layers(answer, result)
        assert answer["outputs"] == [bits(engine(x, t + 1).logits) for t in range(T)]
        recorded = pk.simulate(net, x, T, precision="int8", record=list(answer["maps"])).records
        for name, spikes in recorded.items():
            maps = sha256(spikes.dense(torch.float32).to(torch.int8).contiguous().numpy().tobytes())
            assert answer["maps"][name] == maps.hexdigest(), name


def test_sigma_delta_in_node(built, in_node, tmp_path):
    images, found = in_node
    engine = engine_of(built, "sigma-delta", tmp_path)
    for x, answer in zip(images, found["sigma-delta"], strict=True):
        result = engine(x, T)
        assert answer["outputs"] == [bits(potentials) for potentials in result.potentials]
        check_layers(answer, result)


def test_events_in_node(built, samples, in_node, tmp_path):
    _, found = in_node
    engine, steps = engine_of(built, "events", tmp_path), samples["T"]
    for recording, answer in zip(samples["recordings"], found["events"], strict=True):
        x = pk.events(**events_of(recording), size=(34, 34), dt=1, T=steps)
        result = engine(x, steps)
        assert result.count().any() and answer["outputs"] == [bits(result.count(t + 1)) for t in range(steps)]
        check_layers(answer, result)


@pytest.fixture(scope="module")
def address(built):
    """Where the page is served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=EXTRA)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/demo/"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])  # CI runs as root
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, address):
    """Opens the page in a window; it must load nothing from elsewhere, and say no errors."""
    contexts, asked, said = [], [], []

    def open_page(width: int, height: int, before: str = "", **how):
        context = chromium.new_context(viewport={"width": width, "height": height}, **how)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("requestfailed", lambda request: said.append(f"{request.url} failed"))
        if before:
            page.add_init_script(before)
        page.goto(address)
        page.wait_for_selector("#main[aria-busy=false]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert asked and all(url.startswith((address, "data:")) for url in asked)
    assert not [text for text in said if not text.startswith("Failed to load resource")]  # the page says that itself


STILL = {"reduced_motion": "reduce"}  # the last step is shown at once


def shown(page, network: str) -> dict[str, tuple[int, int]]:
    """Layer -> spikes and additions so far, as the panel of a network has them."""
    canvases = page.locator(f"section[aria-labelledby={network}-title] canvas").all()
    data = [canvas.evaluate("canvas => ({...canvas.dataset})") for canvas in canvases]
    return {layer["layer"]: (int(layer["spikes"]), int(layer["additions"])) for layer in data}


def counted(result, names) -> dict[str, tuple[int, int]]:
    return {k: (round(result.rates[k] * result.places[k]), result.synops.accumulates[k]) for k in names}


def test_picking_an_image(opened, built, samples, tmp_path):
    page = opened(1300, 1000, **STILL)
    for k in (0, 7, 23):
        page.locator("#gallery button").nth(k).click()
        x, name = image_of(samples["images"][k]), samples["classes"][samples["images"][k]["label"]]
        assert page.locator("#gallery button[aria-pressed=true]").get_attribute("aria-label").startswith(name)
        said = page.locator("#spoken").inner_text()
        for title, network in (("Integrate-and-fire", "if"), ("Sigma-delta", "sigma-delta")):
            result = engine_of(built, network, tmp_path)(x, T)
            there = shown(page, network)
            assert len(there) >= 4 and there == counted(result, there)
            answer = samples["classes"][int(result.logits.argmax())]
            assert f"{title}: {answer}, " in said
    assert "After 16 of 16 steps. ReLU network: " in said


def test_the_relu_network_is_plain_javascript(opened, built, samples, tmp_path):
    """Its outputs are those that the sigma-delta neurons settle on."""
    page, engine = opened(1300, 1000, **STILL), engine_of(built, "sigma-delta", tmp_path)
    x = image_of(samples["images"][0])
    found = page.evaluate(
        """async (image) => {
            const { reluNetwork } = await import("./relu.js"), { bytesOf } = await import("./files.js");
            const relu = reluNetwork(await bytesOf("sigma-delta.safetensors.gz"));
            return [Array.from(relu.outputs(Float32Array.from(image))), relu.products];
        }""",
        x.flatten().tolist(),
    )
    settled = engine(x, 64).logits[0]
    assert (torch.tensor(found[0]) - settled).abs().max() < 0.02 * settled.abs().max()
    assert found[1] == engine.plan.relu_products


def test_steps_and_their_number(opened, built, samples, tmp_path):
    page, engine = opened(1300, 1000, **STILL), engine_of(built, "if", tmp_path)
    x = image_of(samples["images"][0])
    page.locator("#steps").fill("5")
    assert page.locator("#step").get_attribute("max") == "5"
    for button, t in (("back", 4), ("back", 3), ("forward", 4)):
        page.locator(f"#{button}").click()
        assert shown(page, "if") == counted(engine(x, t), shown(page, "if"))
        assert f"After {t} of 5 steps." in page.locator("#spoken").inner_text()
    page.locator("#step").fill("0")
    assert all(count == (0, 0) for count in shown(page, "if").values())
    assert "no answer yet" in page.locator("#spoken").inner_text()


def test_it_plays_by_itself(opened):
    page = opened(1300, 1000)
    page.wait_for_function("Number(document.getElementById('step').value) === 16")
    page.locator("#play").click()
    assert page.locator("#play").inner_text() == "Pause"
    page.wait_for_function("Number(document.getElementById('step').value) > 2")
    page.locator("#play").click()
    stopped = page.locator("#step").input_value()
    page.wait_for_timeout(500)
    assert page.locator("#step").input_value() == stopped and page.locator("#play").inner_text() == "Play"


def test_drawing(opened):
    page = opened(1300, 1000, **STILL)
    page.locator("#clear").click()
    empty = shown(page, "if")
    box = page.locator("#pad").bounding_box()
    for column in range(8, 21, 2):
        page.mouse.move(box["x"] + box["width"] * column / 28, box["y"] + box["height"] * 0.2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * column / 28, box["y"] + box["height"] * 0.8, steps=5)
        page.mouse.up()
    drawn = shown(page, "if")
    assert drawn["conv2"][0] > 2 * empty["conv2"][0]
    assert page.locator("#gallery button[aria-pressed=true]").count() == 0
    page.locator("#eraser").click()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.up()
    assert shown(page, "if") != drawn


def test_the_keyboard_alone(opened):
    page = opened(1300, 1000, **STILL)
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    empty = shown(page, "if")
    page.locator("#pad").focus()
    for _ in range(6):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    drawn = shown(page, "if")
    assert drawn != empty
    page.keyboard.press("Delete")
    assert shown(page, "if") != drawn
    page.locator("#gallery button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#gallery button").nth(11).get_attribute("aria-pressed") == "true"
    unlabelled = "button:not([aria-label]):empty, canvas[role]:not([aria-label]), input:not([aria-label])"
    assert all(control.evaluate("node => node.labels?.length > 0") for control in page.locator(unlabelled).all())


def test_a_phone(opened):
    page = opened(390, 844, has_touch=True, is_mobile=True, **STILL)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    before = shown(page, "if")
    box = page.locator("#pad").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + 12)
    assert shown(page, "if") != before
    page.locator("#see-events").tap()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_event_camera(opened, built, samples, tmp_path):
    page, engine = opened(1300, 1000, **STILL), engine_of(built, "events", tmp_path)
    page.locator("#see-events").click()
    for k in (0, 4):
        page.locator("#gallery button").nth(k).click()
        x = pk.events(**events_of(samples["recordings"][k]), size=(34, 34), dt=1, T=samples["T"])
        result = engine(x, samples["T"])
        assert shown(page, "if") == counted(result, shown(page, "if"))
        answer = samples["classes"][int(result.count().argmax())]
        assert f"After 15 of 15 steps. Integrate-and-fire, events: {answer}, " in page.locator("#spoken").inner_text()
    page.locator("#see-image").click()
    assert len(shown(page, "sigma-delta")) >= 4


def test_without_simd_it_says_so(opened):
    page = opened(390, 844, before="WebAssembly.validate = () => false; console.error = () => {}")
    assert "no WebAssembly SIMD" in page.locator("#notice").inner_text()
    assert page.locator("#main").is_hidden() and page.locator("#notice").is_visible()


def test_a_missing_file_is_named(opened):
    page = opened(
        390,
        844,
        before="const get = fetch; fetch = (name) => get(name.replace('if.', 'of.')); console.error = () => {}",
    )
    assert "built/if.safetensors.gz is missing" in page.locator("#notice").inner_text()


def test_the_engine_is_small(built):
    content = (built / "built" / "engine.wasm").read_bytes()
    assert len(content) <= 1_000_000 and len(gzip.compress(content, 9)) <= 280_000


def test_it_is_fast(opened):
    """The best of some: other programs run beside it."""
    page = opened(1300, 1000, **STILL)
    fastest = page.evaluate(
        """async () => {
            const { Engine, Network } = await import("./engine.js");
            const { bytesOf, samples } = await import("./files.js");
            const engine = await Engine.load(await bytesOf("engine.wasm")), [{ values }] = (await samples()).images;
            const stream = new Network(engine, await bytesOf("if.safetensors.gz")).stream();
            return Math.min(...Array.from({ length: 20 }, () => stream.run(values, 16)));
        }"""
    )
    assert fastest <= 20
    first = [page.evaluate("performance.getEntriesByName('first answer')[0].startTime")]
    for _ in range(3):
        page.reload()
        page.wait_for_selector("#main[aria-busy=false]", state="attached")
        first.append(page.evaluate("performance.getEntriesByName('first answer')[0].startTime"))
    assert min(first) <= 1000


def test_in_the_dark(opened):
    light = opened(1300, 1000, **STILL, color_scheme="light")
    dark = opened(1300, 1000, **STILL, color_scheme="dark")
    color = "getComputedStyle(document.body).backgroundColor"
    assert light.evaluate(color) != dark.evaluate(color)
    dark.emulate_media(color_scheme="light")
    assert dark.evaluate(color) == light.evaluate(color)


def test_screenshot(opened, tmp_path):
    """Drawn anew for the guide if it is not there."""
    page = opened(1300, 1250, **STILL, color_scheme="light")
    page.locator("#step").fill("6")
    path = tmp_path / SCREENSHOT.name
    page.screenshot(path=path)
    if not SCREENSHOT.exists():
        shutil.copy(path, SCREENSHOT)
    assert path.stat().st_size > 30_000
