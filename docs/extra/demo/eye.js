// What an event camera sees of a bright spot: the numbers of hands.py (benchmarks/research/training), step by step.

export const SIZE = 32; // pixels along each side
export const STEP_MS = 20;
const CONTRAST = 1.3, GAIN = 3, RADIUS = 3.5; // of an event; of the spot, which in training are random

export class Eye {
  constructor() {
    this.seen = new Float64Array(SIZE * SIZE).fill(1); // the light at each pixel's last event
  }

  // Of the next step, with the spot at { x, y } in pixels, or without one: Uint8Array, 1 where it got darker, 2 brighter.
  step(spot) {
    return Uint8Array.from(this.seen, (seen, p) => {
      const light = spot ? lightAt(p, spot) : 1, off = light * CONTRAST < seen, on = light > seen * CONTRAST;
      if (off || on) this.seen[p] = light;
      return Number(off) + 2 * Number(on);
    });
  }
}

function lightAt(p, { x, y }) {
  const dx = (p % SIZE) - x, dy = Math.floor(p / SIZE) - y, share = Math.max(1 - (dy * dy + dx * dx) / (RADIUS * RADIUS), 0);
  return 1 + GAIN * (share * share);
}
