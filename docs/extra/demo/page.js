import { Answer, figures } from "./answer.js";
import { Engine, hasSimd, Network } from "./engine.js";
import { bytesOf, samples } from "./files.js";
import { paint } from "./maps.js";
import { Pad } from "./pad.js";
import { Panel } from "./panel.js";
import { Player } from "./player.js";
import { Recorder } from "./record.js";
import { reluNetwork } from "./relu.js";
import { start } from "./start.js";

const find = (id) => document.getElementById(id);
const RELU = { id: "relu", name: "ReLU network" };
const IF = {
  id: "if",
  name: "Integrate-and-fire",
  about:
    "Each neuron adds up its inputs, and fires when its potential reaches a threshold. Its rate stands for an activation. " +
    "What has fired fades over some steps.",
};
const SIGMA_DELTA = {
  id: "sigma-delta",
  name: "Sigma-delta",
  about: "Each neuron sends what its activation has changed by, as signed powers of two, and is silent once it has " +
    "sent it. Orange: more, blue: less.",
};
const EVENTS = {
  id: "if",
  name: "Integrate-and-fire, events",
  about: "A camera moves three times before an image. Its pixels send events where it gets brighter (orange) or darker (blue).",
};
const PAUSE = 120; // ms between answers while something is drawn
const SHOWN = 2500, SHORTEST = 50, LONGEST = 400; // ms: of all steps together, and of a step

class Page {
  constructor(given, networks) {
    Object.assign(this, given, networks);
    this.player = new Player((t) => this.show(t));
    this.pad = new Pad(find("pad"), (goes) => this.drawn(goes));
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    find("see-image").onclick = () => this.see(false);
    find("see-events").onclick = () => this.see(true);
    for (const [id, ink] of [["pen", 0.9], ["eraser", 0]]) find(id).onclick = () => this.take(id, ink);
    find("clear").onclick = () => this.clear();
    find("steps").oninput = () => this.count();
    find("steps").onchange = () => this.look();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paintAll());
    new ResizeObserver(() => this.fit()).observe(find("networks"));
    find("gallery").addEventListener("keydown", (event) => this.walk(event));
    this.see(false);
  }

  // Images, or the event camera.
  see(events) {
    this.events = events;
    const toggled = { "see-image": !events, "see-events": events };
    for (const [id, on] of Object.entries(toggled)) find(id).setAttribute("aria-pressed", on);
    for (const id of ["tools", "pad-help", "steps-field"]) find(id).hidden = events;
    this.pad.still = events;
    find("pad").classList.toggle("still", events);
    find("pad").setAttribute("role", events ? "img" : "application");
    find("pad").tabIndex = events ? -1 : 0;
    find("gallery-title").textContent = events ? "Recordings" : "Test images";
    this.recorders = events ? [this.ofEvents] : [this.ofIf, this.ofSigmaDelta];
    const shown = events ? [EVENTS] : [IF, SIGMA_DELTA];
    this.answer = new Answer(events ? shown : [RELU, ...shown], this.classes);
    find("networks").replaceChildren();
    find("gallery").classList.toggle("few", events);
    this.panels = this.recorders.map((recorder, k) => new Panel(find("networks"), shown[k], recorder.layers));
    this.fillGallery();
    this.pick(0);
  }

  fillGallery() {
    const items = this.events ? this.recordings : this.images;
    const buttons = items.map((item, k) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-label", `${this.classes[item.label]}, ${this.events ? "recording" : "test image"} ${k + 1}`);
      button.title = this.classes[item.label];
      button.append(document.createElement("canvas"));
      button.onclick = () => this.pick(k);
      return button;
    });
    find("gallery").replaceChildren(...buttons);
    this.paintGallery();
  }

  paintGallery() {
    const items = this.events ? this.recordings : this.images;
    find("gallery").querySelectorAll("canvas").forEach((canvas, k) => {
      const item = items[k];
      if (this.events) paint(canvas, eventPicture(item, 0, item.T / 3), item.size);
      else paint(canvas, item.values, 28);
    });
  }

  pick(k) {
    this.mark(k);
    if (this.events) this.recording = this.recordings[k];
    else this.pad.set(this.images[k].values);
    find("pad").setAttribute("aria-label", this.events ? `Events of recording ${k + 1}` : "Drawing, 28 by 28 pixels");
    this.look();
  }

  // One of the gallery's buttons is in the order of Tab; arrows go to the others.
  mark(picked) {
    [...find("gallery").children].forEach((button, k) => {
      button.setAttribute("aria-pressed", k === picked);
      button.tabIndex = k === (picked ?? 0) ? 0 : -1;
    });
  }

  walk(event) {
    const row = this.events ? 5 : 10, buttons = [...find("gallery").children];
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row }[event.key];
    const to = by && buttons[buttons.indexOf(document.activeElement) + by];
    if (!to) return;
    event.preventDefault();
    to.focus();
  }

  take(id, ink) {
    this.pad.ink = ink;
    for (const tool of ["pen", "eraser"]) find(tool).setAttribute("aria-pressed", tool === id);
  }

  clear() {
    this.pad.set(new Float32Array(28 * 28));
    this.drawn(false);
  }

  // While a stroke goes on, an answer now and then.
  drawn(goes) {
    this.mark(null);
    clearTimeout(this.waiting);
    if (!goes) return this.look({ plays: false });
    const wait = Math.max(0, PAUSE - (performance.now() - (this.looked ?? 0)));
    this.waiting = setTimeout(() => this.look({ plays: false }), wait);
  }

  count() {
    find("steps-shown").textContent = find("steps").value;
  }

  // Runs the networks on what there is to see.
  look({ plays = true } = {}) {
    clearTimeout(this.waiting);
    const T = this.events ? this.recording.T : Number(find("steps").value);
    if (this.events) {
      const { engine } = this.ofEvents.network, { events, size } = this.recording;
      const spikes = engine.pack(events, T, size, size), step = size * size;
      this.runs = [this.ofEvents.run(spikes, (t) => spikes.subarray(t * step, (t + 1) * step), T)];
      this.pass = null;
    } else {
      const { values } = this.pad;
      this.runs = this.recorders.map((recorder) => recorder.run(values, () => values, T));
      const start = performance.now(), outputs = this.relu.outputs(values);
      this.pass = { outputs, ms: performance.now() - start, products: this.relu.products };
    }
    this.looked = performance.now();
    if (plays && !this.still) this.player.play(T, Math.min(LONGEST, Math.max(SHORTEST, SHOWN / T)));
    else this.player.stand(T);
  }

  show(t) {
    if (!this.runs) return;
    const ofRuns = this.runs.map((run) => ({ outputs: t ? run.steps[t - 1].outputs : null }));
    const words = this.answer.show([...(this.pass ? [this.pass] : []), ...ofRuns], figures(this.runs, t, this.pass));
    if (!this.player.playing) find("spoken").textContent = `After ${t} of ${this.runs[0].T} steps. ${words}`;
    this.panels.forEach((panel, k) => panel.show(this.runs[k], t));
    if (this.events) paint(find("pad"), eventPicture(this.recording, t - 1, t), this.recording.size);
  }

  // Pictures are as large as there is room for.
  fit() {
    const width = find("networks").clientWidth;
    if (width !== this.width) this.show(this.player.t);
    this.width = width;
  }

  paintAll() {
    this.pad.show();
    this.paintGallery();
    this.show(this.player.t);
  }
}

// The events of some steps: 1 of more light, -1 of less.
function eventPicture({ events, size }, from, to) {
  const picture = new Int8Array(size * size);
  events.t.forEach((t, k) => {
    if (t >= from && t < to) picture[events.y[k] * size + events.x[k]] = events.p[k] ? 1 : -1;
  });
  return picture;
}

async function begin() {
  if (!hasSimd()) throw new Error("This browser has no WebAssembly SIMD, which the engine needs: any current one has it.");
  const names = ["engine.wasm", "if.safetensors.gz", "sigma-delta.safetensors.gz", "events.safetensors.gz"];
  const [given, wasm, ...files] = await Promise.all([samples(), ...names.map(bytesOf)]);
  const engine = await Engine.load(wasm);
  const [ofIf, ofSigmaDelta, ofEvents] = files.map((bytes) => new Recorder(new Network(engine, bytes)));
  new Page(given, { ofIf, ofSigmaDelta, ofEvents, relu: reluNetwork(files[1]) });
  performance.mark("first answer");
}

start(begin);
