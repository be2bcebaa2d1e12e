"""The page that listens, in Chromium: of a recording and of a microphone it hears what the definition hears."""

import shutil
import wave

import numpy as np
import pytest
import torch
from demo_page import EXTRA, STILL, engine_of

import proxykernels as pk

pytestmark = pytest.mark.slow
pytest_plugins = ["demo_page"]
IMAGES = EXTRA.parent / "images"  # delete a screenshot, and its test makes it anew
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Two sounds between silences, as samples and as a file of 16 bits."""
    t = np.arange(16000) / 8000
    sound = np.zeros(16000)
    for begin, end, hertz in ((0.3, 0.7, 350), (1.2, 1.7, 900)):
        sound += 0.3 * np.sin(2 * np.pi * hertz * t * (1 + 0.2 * t)) * ((t >= begin) & (t < end))
    samples = (sound * 32767).astype("<i2")
    path = tmp_path_factory.mktemp("sound") / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(samples.tobytes())
    return path, torch.from_numpy(samples / np.float32(32768))


def expected(engine: pk.Engine, sound: torch.Tensor) -> list[str]:
    """The words of the two sounds, each heard from 9 steps before it to 11 behind it."""
    spikes, words = pk.samples.cochlea_spikes(sound), []
    for begin, end in ((30, 70), (120, 170)):
        heard = spikes[begin - 9 : end + 11]
        assert heard.any()
        words.append(DIGITS[int(engine(heard, len(heard)).potentials.sum(0).argmax())])
    return words


def wait(page, heard: int) -> list[str]:
    """Until so many words are heard; from here, for the page lets nobody evaluate text."""
    for _ in range(400):
        words = page.locator("#heard").inner_text().split()
        if words != ["Nothing", "yet."] and len(words) >= heard:
            return words
        page.wait_for_timeout(50)
    raise AssertionError(f"it hears {words}")


def test_a_recording(opened, built, recording, tmp_path):
    path, sound = recording
    page = opened(390, 844, name="listen.html", **STILL)
    assert page.locator("#heard").inner_text() == "Nothing yet."
    page.locator("#file").set_input_files(path)
    assert wait(page, 2) == expected(engine_of(built, "digits", tmp_path), sound)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert "10 ms of sound take" in page.locator("#cost").inner_text()
    painted = page.locator("#spikes").evaluate(
        "canvas => new Set(new Uint32Array(canvas.getContext('2d').getImageData(0, 0, 300, 32).data.buffer)).size"
    )
    assert painted == 3  # nothing, ON and OFF


def test_a_microphone(launch, address, recording):
    """Chromium plays the recording into it, again and again."""
    fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    browser = launch(*fake, f"--use-file-for-fake-audio-capture={recording[0]}")
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{address}listen.html")
    page.wait_for_selector("#main[aria-busy=false]", state="attached")
    page.locator("#microphone").click()
    assert set(wait(page, 3)) <= set(DIGITS)
    assert page.locator("#microphone").get_attribute("aria-pressed") == "true"
    page.locator("#microphone").click()
    assert page.locator("#microphone").get_attribute("aria-pressed") == "false"
    assert page.locator("#notice").is_hidden()
    browser.close()


def test_what_is_no_sound_is_told(opened, tmp_path):
    page = opened(390, 844, name="listen.html", **STILL)
    (tmp_path / "none.wav").write_bytes(b"RIFF")
    page.locator("#file").set_input_files(tmp_path / "none.wav")
    page.wait_for_selector("#notice:not([hidden])")


def test_screenshot(opened, recording, tmp_path):
    """Drawn anew for the guide if it is not there."""
    page = opened(390, 780, name="listen.html", **STILL, color_scheme="light", device_scale_factor=2)
    page.locator("#file").set_input_files(recording[0])
    wait(page, 2)
    path = tmp_path / "listen.png"
    page.screenshot(path=path)
    if not (IMAGES / path.name).exists():
        shutil.copy(path, IMAGES)
    assert path.stat().st_size > 20_000
