"""The page that sees gestures: its camera makes the events of hands.py, and the network answers as in Python."""

import json
import shutil
import subprocess
from importlib import import_module

import numpy as np
import pytest
import torch
from demo_page import EXTRA, STILL, engine_of

import proxykernels as pk

pytestmark = pytest.mark.slow
hands = import_module("training.hands")  # build_demo, which demo_page imports, finds it in benchmarks/research
pytest_plugins = ["demo_page"]
IMAGES = EXTRA.parent / "images"  # delete a screenshot, and its test makes it anew
NODE = """
const { Eye } = await import(`${process.argv.at(-2)}/eye.js`);
const eye = new Eye();
console.log(JSON.stringify(JSON.parse(process.argv.at(-1)).map((spot) => Array.from(eye.step(spot)))));
"""
GAIN, RADIUS = np.array([3.0]), np.array([3.5])  # of eye.js


def circle(steps: int) -> list[tuple[float, float]]:
    angle = 2 * np.pi * np.arange(steps) * hands.STEP_MS / 1000
    return list(zip((16 + 8 * np.cos(angle)).tolist(), (16 + 8 * np.sin(angle)).tolist(), strict=True))


def events_of(spots: list[tuple[float, float] | None]) -> torch.Tensor:
    """bool [T, 1, 2, 32, 32], by hands.py."""
    seen, frames = np.ones((1, hands.SIZE, hands.SIZE)), []
    for spot in spots:
        x, y = (np.array([value]) for value in spot or (0.0, 0.0))
        off, on = hands.events(seen, hands.light(x, y, GAIN * (spot is not None), RADIUS))
        frames.append(np.stack([off, on], 1))
    return torch.from_numpy(np.stack(frames))


def test_the_camera_is_that_of_training():
    if not shutil.which("node"):
        pytest.skip("Node is not installed: apt-get install nodejs")
    spots = [None, *circle(40), None, None, *circle(5)]
    told = json.dumps([spot and {"x": spot[0], "y": spot[1]} for spot in spots])
    command = ["node", "--input-type=module", "--eval", NODE, str(EXTRA / "demo"), told]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    expected = events_of(spots)
    assert 0.005 < expected.float().mean() < 0.1
    codes = (expected[:, 0, 0].int() + 2 * expected[:, 0, 1].int()).flatten(1)
    assert found == codes.tolist()


def test_the_shipped_network_tells_played_gestures(built, tmp_path):
    engine = engine_of(built, "gestures", tmp_path)
    output = engine(events_of(circle(60)), 60)
    assert hands.CLASSES[int(output.potentials[-1, 0].argmax())] == "clockwise"
    spikes, labels = hands.gestures(200, 60, 2)
    assert (
        pk.load(tmp_path / "gestures.safetensors")(spikes, 60).potentials.mean(0).argmax(1) == labels
    ).float().mean() > 0.9


def seen(page, wanted: str) -> None:
    for _ in range(400):
        if page.locator("#seen").inner_text() == wanted:
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"it sees {page.locator('#seen').inner_text()}, not {wanted}")


def move(page, name: str) -> None:
    """The mouse, as a hand moves: once a second, for as long as it takes until the page answers."""
    box = page.locator("#camera").bounding_box()
    for step in range(400):
        angle = 2 * np.pi * step / 50
        x, y = (np.cos(angle), -np.sin(angle)) if name == "counterclockwise" else (np.sin(angle), 0.0)
        page.mouse.move(box["x"] + box["width"] * (0.5 + 0.25 * x), box["y"] + box["height"] * (0.5 + 0.25 * y))
        if step == 0:
            page.mouse.down()
        if page.locator("#seen").inner_text() == name:
            break
        page.wait_for_timeout(15)
    page.mouse.up()


@pytest.mark.parametrize("name", ["counterclockwise", "side to side"])
def test_a_pointer(opened, name):
    page = opened(390, 844, name="gestures.html", **STILL)
    assert page.locator("#seen").inner_text() == "Nothing yet."
    move(page, name)
    seen(page, name)
    assert "A step, 20 ms, takes" in page.locator("#cost").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    seen(page, "Nothing yet.")  # half a second after the finger has gone


def test_the_keyboard(opened):
    page = opened(1300, 800, name="gestures.html", **STILL)
    assert page.locator("#gestures span").all_inner_texts() == list(hands.CLASSES)
    page.keyboard.press("5")
    seen(page, "clockwise")


def test_screenshot(opened, tmp_path):
    """Drawn anew for the guide if it is not there."""
    page = opened(390, 900, name="gestures.html", **STILL, color_scheme="light", device_scale_factor=2)
    page.keyboard.press("7")
    seen(page, "figure of eight")
    path = tmp_path / "gestures.png"
    page.screenshot(path=path)
    if not (IMAGES / path.name).exists():
        shutil.copy(path, IMAGES)
    assert path.stat().st_size > 20_000
