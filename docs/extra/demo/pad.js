// Drawing with a pointer, a finger or the keyboard, on 28 x 28 pixels.
import { paint } from "./maps.js";

export const SIZE = 28;
const LEVELS = 256; // of brightness: sums of multiples of a power of two are exact
const RADIUS = 1.5, INK = 0.9; // of the pen: pixels, and how bright

export class Pad {
  // `changed` is called after each change, with whether the stroke goes on.
  constructor(canvas, changed) {
    Object.assign(this, { canvas, changed, ink: INK, still: false });
    this.values = new Float32Array(SIZE * SIZE);
    this.at = { x: SIZE / 2, y: SIZE / 2 }; // of the keyboard
    this.byKeyboard = false;
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.end());
    canvas.addEventListener("keydown", (event) => this.key(event));
    for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => this.focused());
  }

  set(values) {
    this.values = Float32Array.from(values);
    this.show();
  }

  show() {
    if (this.still) return;
    const cursor = this.byKeyboard ? Math.floor(this.at.y) * SIZE + Math.floor(this.at.x) : null;
    paint(this.canvas, this.values, SIZE, cursor);
  }

  place({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    return { x: ((clientX - box.left) / box.width) * SIZE, y: ((clientY - box.top) / box.height) * SIZE };
  }

  begin(event) {
    if (this.still || event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.byKeyboard = false;
    this.last = this.place(event);
    this.stroke(this.last, this.last);
    this.changed(true);
  }

  move(event) {
    if (!this.last) return;
    const to = this.place(event);
    this.stroke(this.last, to);
    this.last = to;
    this.changed(true);
  }

  end() {
    if (!this.last) return;
    this.last = null;
    this.changed(false);
  }

  // A line with soft edges.
  stroke(from, to, ink = this.ink) {
    for (let p = 0; p < SIZE * SIZE; p++) {
      const x = (p % SIZE) + 0.5, y = Math.floor(p / SIZE) + 0.5, dx = to.x - from.x, dy = to.y - from.y;
      const along = Math.min(1, Math.max(0, ((x - from.x) * dx + (y - from.y) * dy) / (dx * dx + dy * dy || 1)));
      const distance = Math.hypot(x - from.x - along * dx, y - from.y - along * dy);
      const share = Math.min(1, Math.max(0, RADIUS + 0.5 - distance));
      if (share === 0) continue;
      const value = ink ? Math.max(this.values[p], share * ink) : this.values[p] * (1 - share);
      this.values[p] = Math.round(value * LEVELS) / LEVELS;
    }
    this.show();
  }

  focused() {
    this.byKeyboard = this.canvas.matches(":focus-visible");
    this.show();
  }

  key(event) {
    if (this.still) return;
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const ink = { " ": this.ink, Enter: this.ink, Delete: 0, Backspace: 0 }[event.key];
    if (!by && ink === undefined) return;
    event.preventDefault();
    this.byKeyboard = true;
    const inside = (v) => Math.min(SIZE - 0.5, Math.max(0.5, v));
    const [x, y] = by ?? [0, 0], from = this.at;
    this.at = { x: inside(Math.floor(from.x) + 0.5 + x), y: inside(Math.floor(from.y) + 0.5 + y) };
    if (event.shiftKey && by) this.stroke(from, this.at);
    if (ink !== undefined) this.stroke(this.at, this.at, ink);
    if (ink !== undefined || event.shiftKey) this.changed(false);
    this.show();
  }
}
