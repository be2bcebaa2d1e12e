// The spikes of a layer as pictures of its maps, side by side. What has just fired fades for some steps.

const MOST_HEIGHT = 240; // CSS pixels of a layer's pictures
const MOST_SCALE = 10; // of a neuron
const FADES = [1, 0.42, 0.24, 0.14, 0.08]; // now, and the steps before
const SENT = 0.3; // of what sigma-delta neurons sent last, however long ago
const FAINTEST = 0.25; // of the smallest spike of sigma-delta neurons, against the largest

// The brightness of each code: 0 of none, 1 of a spike, and less of smaller powers of two.
const brightness = (code, exponents) =>
  code === 0 ? 0 : 1 - (1 - FAINTEST) * ((Math.abs(code) - 1) / Math.max(1, exponents - 1));

export function rgb(name) {
  const [, ...digits] = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [0, 2, 4].map((at) => parseInt(digits.slice(at, at + 2).join(""), 16));
}

export class Maps {
  // `colors`: the names of those of positive and of negative spikes.
  constructor(canvas, { C, H, W }, colors, exponents = 1) {
    Object.assign(this, { canvas, C, H, W, colors, exponents });
    this.small = document.createElement("canvas");
  }

  // The largest pixels with which all maps fit, in rows that are full.
  layout() {
    const ratio = window.devicePixelRatio || 1, width = Math.floor(this.canvas.parentElement.clientWidth * ratio);
    for (let scale = Math.round(MOST_SCALE * ratio); scale >= 1; scale--) {
      const most = Math.min(this.C, Math.floor(width / (scale * (this.W + 1))));
      const rows = Math.ceil(this.C / most);
      if (most >= 1 && (scale === 1 || rows * scale * (this.H + 1) <= MOST_HEIGHT * ratio))
        return { scale, columns: Math.ceil(this.C / rows), rows, ratio };
    }
    return { scale: 1, columns: 1, rows: this.C, ratio };
  }

  // `steps`: the codes of all steps, Int8Array [C, H, W] each; those up to t are drawn, of which 0 is before the first.
  draw(steps, t) {
    const { C, H, W, small, canvas } = this, { scale, columns, rows, ratio } = this.layout();
    const width = columns * (W + 1) - 1, height = rows * (H + 1) - 1;
    const plus = rgb(this.colors[0]), minus = rgb(this.colors[1]), empty = rgb("--map"), gap = rgb("--card");
    small.width = width, small.height = height;
    const context = small.getContext("2d"), picture = context.createImageData(width, height), pixels = picture.data;
    for (let i = 0; i < pixels.length; i += 4) pixels.set(gap, i), (pixels[i + 3] = 255);
    const signed = this.exponents > 1, most = signed ? t : Math.min(t, FADES.length);
    for (let c = 0; c < C; c++) {
      const left = (c % columns) * (W + 1), top = Math.floor(c / columns) * (H + 1);
      for (let p = 0; p < H * W; p++) {
        let code = 0, light = 0;
        for (let ago = 0; ago < most && !light; ago++) {
          code = steps[t - 1 - ago][c * H * W + p];
          light = Math.max(FADES[ago] ?? 0, signed ? SENT : 0) * brightness(code, this.exponents);
        }
        const color = code < 0 ? minus : plus;
        const at = 4 * ((top + Math.floor(p / W)) * width + left + (p % W));
        for (let i = 0; i < 3; i++) pixels[at + i] = empty[i] + light * (color[i] - empty[i]);
      }
    }
    context.putImageData(picture, 0, 0);
    canvas.width = width * scale, canvas.height = height * scale;
    canvas.style.width = `${canvas.width / ratio}px`;
    const large = canvas.getContext("2d");
    large.imageSmoothingEnabled = false;
    large.drawImage(small, 0, 0, canvas.width, canvas.height);
  }
}

// One picture of intensities from 0 to 1, or of events: -1 and 1.
export function paint(canvas, values, size, cursor = null) {
  const empty = rgb("--map"), full = rgb("--text"), minus = rgb("--minus"), plus = rgb("--plus");
  if (canvas.width !== size) canvas.width = canvas.height = size;
  const context = canvas.getContext("2d"), picture = context.createImageData(size, size);
  const events = values instanceof Int8Array;
  for (let p = 0; p < size * size; p++) {
    const color = p === cursor ? rgb("--accent") : !events ? full : values[p] < 0 ? minus : plus;
    const light = p === cursor ? 1 : Math.abs(values[p]);
    for (let i = 0; i < 3; i++) picture.data[4 * p + i] = empty[i] + light * (color[i] - empty[i]);
    picture.data[4 * p + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
}
