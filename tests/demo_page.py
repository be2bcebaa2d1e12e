"""The browser page (docs/extra/demo) as its tests have it: built, served, and opened in Chromium.

A plugin of pytest, which has fixtures; the test modules name it.
"""

import base64
import gzip
import json
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import build_demo
import numpy as np
import pytest
import torch

import proxykernels as pk

EXTRA = build_demo.BUILT.parents[1]
T = 16  # steps of an image, as the page has them at first
STILL = {"reduced_motion": "reduce"}  # the last step is shown at once


@pytest.fixture(scope="session")
def built() -> Path:
    """The page's folder, with all that it loads."""
    if not build_demo.is_current(build_demo.BUILT):
        pytest.importorskip("ziglang", reason="compiles the engine to WebAssembly: pip install ziglang")
    build_demo.main([])
    return EXTRA / "demo"


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def address(built):
    """Where the page is served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=EXTRA)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/demo/"
        server.shutdown()


@pytest.fixture(scope="session")
def launch():
    """Starts Chromium, with further flags."""
    playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        yield lambda *flags: driver.chromium.launch(executable_path=path, args=["--no-sandbox", *flags])  # CI is root


@pytest.fixture(scope="session")
def chromium(launch):
    browser = launch()
    yield browser
    browser.close()


@pytest.fixture
def opened(chromium, address):
    """Opens the page in a window; it must load nothing from elsewhere, and say no errors."""
    contexts, asked, said = [], [], []

    def open_page(width: int, height: int, before: str = "", name: str = "", **how):
        context = chromium.new_context(viewport={"width": width, "height": height}, **how)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("requestfailed", lambda request: said.append(f"{request.url} failed"))
        if before:
            page.add_init_script(before)
        page.goto(address + name)
        page.wait_for_selector("#main[aria-busy=false]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert asked and all(url.startswith((address, "data:")) for url in asked)
    assert not [text for text in said if not text.startswith("Failed to load resource")]  # the page says that itself


def shown(page, network: str) -> dict[str, tuple[int, int]]:
    """Layer -> spikes and additions so far, as the panel of a network has them."""
    canvases = page.locator(f"section[aria-labelledby={network}-title] canvas").all()
    data = [canvas.evaluate("canvas => ({...canvas.dataset})") for canvas in canvases]
    return {layer["layer"]: (int(layer["spikes"]), int(layer["additions"])) for layer in data}


def counted(result, names) -> dict[str, tuple[int, int]]:
    return {k: (round(result.rates[k] * result.places[k]), result.synops.accumulates[k]) for k in names}
