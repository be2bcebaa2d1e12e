// The layers of a network: a picture of each one's spikes, and what it did.
import { number } from "./answer.js";
import { Maps } from "./maps.js";

const EXPONENTS = 9; // powers of two that a sigma-delta neuron sends by default

const shape = ({ C, H, W }) => (H * W === 1 ? `${C} neurons` : `${C} maps of ${H} × ${W}`);

export class Panel {
  constructor(parent, { id, name, about }, layers) {
    const section = document.createElement("section");
    section.className = "card network";
    section.innerHTML = "<h2></h2><p class=hint></p>";
    section.setAttribute("aria-labelledby", `${id}-title`);
    section.querySelector("h2").id = `${id}-title`;
    section.querySelector("h2").textContent = name;
    section.querySelector("p").textContent = about;
    const signed = layers.some(({ gives }) => gives === "signed");
    this.layers = layers.map((layer) => {
      const part = document.createElement("div");
      part.className = "layer";
      part.innerHTML = "<div class=about><span><b></b> <span></span></span><span class=work></span></div><canvas></canvas>";
      part.querySelector("b").textContent = layer.name;
      part.querySelector("span span").textContent = shape(layer);
      const canvas = part.querySelector("canvas");
      canvas.setAttribute("role", "img");
      section.append(part);
      const colors = signed ? ["--plus", "--minus"] : [`--${id}`, `--${id}`];
      return { layer, canvas, work: part.querySelector(".work"), maps: new Maps(canvas, layer, colors, signed ? EXPONENTS : 1) };
    });
    parent.append(section);
    this.section = section;
  }

  show(run, t) {
    this.layers.forEach(({ layer, canvas, work, maps }, k) => {
      maps.draw(run.maps[k], t);
      const { spikes, additions } = t ? run.steps[t - 1].layers[k] : { spikes: 0, additions: 0 };
      const rate = t ? (100 * spikes) / (t * layer.C * layer.H * layer.W) : 0;
      Object.assign(canvas.dataset, { layer: layer.name, spikes, additions });
      work.textContent = `${number(spikes)} spikes (${rate.toFixed(1)} %), ${number(additions)} additions`;
      canvas.setAttribute("aria-label", `Spikes of ${layer.name} at step ${t}; so far ${work.textContent}`);
    });
  }
}
