import { Engine, hasSimd, Network } from "./engine.js";
import { bytesOf } from "./files.js";
import { Listener } from "./listener.js";
import { rgb } from "./maps.js";
import { meterRow } from "./meters.js";
import { softmax } from "./record.js";
import { start } from "./start.js";

const find = (id) => document.getElementById(id);
const DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
const BANDS = 32, SHOWN = 300; // steps
const SILENCE = 50; // steps behind a recording, in which its last word ends

class Page {
  constructor(network) {
    this.network = network;
    this.shown = []; // spikes of the last steps
    this.words = [];
    this.steps = this.took = 0; // their milliseconds
    this.bars = DIGITS.map((name) => meterRow(find("digits"), name));
    find("microphone").onclick = () => this.guarded(() => (this.context ? this.stop() : this.listen()));
    find("choose").onclick = () => find("file").click();
    find("file").onchange = ({ target }) => this.guarded(() => this.play(target.files[0]));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    addEventListener("resize", () => this.draw());
    this.draw();
  }

  async guarded(act) {
    find("notice").hidden = true;
    try {
      await act();
    } catch (error) {
      find("notice").textContent = error.message;
      find("notice").hidden = false;
      this.stop();
    }
  }

  async listen() {
    if (!navigator.mediaDevices) throw new Error("This browser gives no microphone to a page that is not served by https or localhost.");
    const media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, autoGainControl: false } });
    this.context = new AudioContext();
    this.media = media;
    find("microphone").setAttribute("aria-pressed", "true");
    const listener = new Listener(this.network, this.context.sampleRate);
    await this.context.audioWorklet.addModule("microphone.js");
    const steps = new AudioWorkletNode(this.context, "steps", { processorOptions: { samples: listener.samples } });
    steps.port.onmessage = ({ data }) => this.guarded(() => this.step(listener, data));
    this.context.createMediaStreamSource(media).connect(steps);
  }

  stop() {
    this.media?.getTracks().forEach((track) => track.stop());
    this.context?.close();
    this.media = this.context = null;
    find("microphone").setAttribute("aria-pressed", "false");
  }

  // A recording, as fast as it goes.
  async play(file) {
    const context = new OfflineAudioContext(1, 1, 8000), decoded = await context.decodeAudioData(await file.arrayBuffer());
    const sound = decoded.getChannelData(0), listener = new Listener(this.network, 8000);
    const { samples } = listener, steps = Math.ceil(sound.length / samples) + SILENCE;
    const whole = new Float32Array(steps * samples);
    whole.set(sound);
    for (let k = 0; k < steps; k++) this.step(listener, whole.subarray(k * samples, (k + 1) * samples));
    find("file").value = "";
  }

  step(listener, sound) {
    const start = performance.now(), { spikes, sums, speaking, word } = listener.step(sound);
    this.took += performance.now() - start, this.steps += 1;
    this.shown.push(spikes);
    this.shown.splice(0, this.shown.length - SHOWN);
    if (speaking) this.sums = sums;
    if (word !== null) this.words.push(DIGITS[word]);
    if (!this.waiting) this.waiting = requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.waiting = null;
    this.paint();
    const parts = this.sums && softmax(this.sums.map((sum) => sum / 10));
    this.bars.forEach((bar, k) => (bar.value = parts ? parts[k] : 0));
    find("heard").textContent = this.words.length ? this.words.slice(-12).join(" ") : "Nothing yet.";
    const { packedBytes } = this.network;
    find("cost").textContent = `${Math.round(packedBytes / 1000)} kB of weights. ` + (this.steps
      ? `10 ms of sound take ${(this.took / this.steps).toFixed(2)} ms here, the cochlea's model included.` : "");
  }

  paint() {
    const canvas = find("spikes"), context = canvas.getContext("2d"), empty = rgb("--map");
    const colors = [rgb("--minus"), rgb("--plus")];
    canvas.width = SHOWN, canvas.height = BANDS;
    const picture = context.createImageData(SHOWN, BANDS);
    for (let i = 0; i < picture.data.length; i += 4) picture.data.set([...empty, 255], i);
    this.shown.forEach((spikes, k) => {
      const t = SHOWN - this.shown.length + k;
      spikes.forEach((fired, i) => {
        if (!fired) return;
        picture.data.set(colors[i < BANDS ? 0 : 1], 4 * ((BANDS - 1 - (i % BANDS)) * SHOWN + t));
      });
    });
    context.putImageData(picture, 0, 0);
  }
}

async function begin() {
  if (!hasSimd()) throw new Error("This browser has no WebAssembly SIMD, which the engine needs: any current one has it.");
  const [wasm, file] = await Promise.all(["engine.wasm", "digits.safetensors.gz"].map(bytesOf));
  new Page(new Network(await Engine.load(wasm), file));
}

start(begin);
