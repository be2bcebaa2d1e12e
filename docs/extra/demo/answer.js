// What the networks answer, as bars and in words, and what it costs.
import { first, softmax } from "./record.js";

const make = (tag, given = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), given);
  element.append(...children);
  return element;
};
const percent = (share) => `${Math.round(100 * share)} %`;
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
export const number = (n) => (n < 10_000 ? n.toLocaleString("en") : short.format(n));
const CLOCK = 0.1; // ms that a browser tells apart
const milliseconds = (ms) => (ms < CLOCK ? `< ${CLOCK} ms` : `${ms.toPrecision(ms < 1 ? 2 : 3)} ms`);

export class Answer {
  // `series`: { id, name } of each network; `classes`: names.
  constructor(series, classes) {
    Object.assign(this, { series, classes });
    const colored = (tag, id, given) => {
      const element = make(tag, given);
      element.style.setProperty("--series", `var(--${id})`);
      return element;
    };
    const find = (id) => document.getElementById(id);
    find("legend").replaceChildren(...series.map(({ id, name }) => colored("li", id, { textContent: name })));
    this.names = classes.map((name) => make("span", { className: "name", textContent: name }));
    this.bars = series.map(({ id }) => classes.map(() => colored("div", id, { className: "bar" })));
    const track = (c) => make("div", { className: "track" }, ...this.bars.map((bars) => bars[c]));
    find("bars").replaceChildren(...classes.flatMap((_, c) => [this.names[c], track(c)]));
    const heads = series.map(({ name }) => make("th", { scope: "col", textContent: name }));
    find("figures-head").replaceChildren(make("th", { scope: "col" }), ...heads);
  }

  // `found`: of each series { outputs, figures }; outputs are null before the first step.
  show(found, rows) {
    const shares = found.map(({ outputs }) => outputs && softmax(outputs));
    this.bars.forEach((bars, k) =>
      bars.forEach((bar, c) => (bar.style.width = `${shares[k] ? 100 * shares[k][c] : 0}%`)));
    const classes = shares.map((share) => (share ? first(share) : null));
    this.names.forEach((name, c) => name.classList.toggle("first", classes.includes(c)));
    const row = (label, values) =>
      make("tr", {}, make("th", { scope: "row", textContent: label }), ...values.map((value) => make("td", { textContent: value })));
    document.getElementById("figures-rows").replaceChildren(...rows.map(([label, values]) => row(label, values)));
    return this.series
      .map(({ name }, k) => `${name}: ${shares[k] ? `${this.classes[classes[k]]}, ${percent(shares[k][classes[k]])}` : "no answer yet"}.`)
      .join(" ");
  }
}

// The rows of the table, after step t of the runs; null for a column that has none. `relu`: { ms, products }, or null.
export function figures(runs, t, relu) {
  const at = (run, what) => (t ? what(run.steps[t - 1]) : null);
  const column = (what, ofRelu) => [...(relu ? [ofRelu ?? "–"] : []), ...runs.map((run) => what(run) ?? "–")];
  const told = (value, how) => (value === null ? null : how(value));
  return [
    ["answer after", column(() => `${t} of ${runs[0].T} steps`, "one pass")],
    ["this step", column((run) => told(at(run, (step) => step.ms), milliseconds))],
    ["all steps, in one call", column((run) => milliseconds(run.ms), relu && milliseconds(relu.ms))],
    ["spikes so far", column((run) => told(at(run, (step) => step.all.spikes), number))],
    ["additions so far", column((run) => told(at(run, (step) => step.all.additions), number))],
    ["multiplications", column((run) => number(run.work.multiplications), relu && number(relu.products))],
  ];
}
