// The scores of one pair's candidates over the inversion step, answering the pointer.

import { svg } from "../lib/dom.js";

const WIDTH = 190;
const HEIGHT = 210;
const BOX = { left: 24, right: 8, top: 20, bottom: 22 };
const LINES = [
  ["total", "S", "currentColor"],
  ["edit", "S_e", "#38a0f8"],
  ["keep", "S_ne", "#f0609e"],
];

/** The curves; marks are {chosen, found, hovered} steps or null. */
export function scoreCurves(candidates, steps, marks) {
  const top = Math.max(1, ...candidates.map((one) => Math.max(one.total, one.edit, one.keep)));
  const x = (n) => BOX.left + (n / Math.max(1, steps)) * (WIDTH - BOX.left - BOX.right);
  const y = (value) => HEIGHT - BOX.bottom - (value / top) * (HEIGHT - BOX.top - BOX.bottom);
  const label = { fill: "currentColor", "font-size": 10 };
  const figure = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "partedit-curves", role: "img", "aria-label": LINES.map((line) => line[1]).join(", ") });
  for (const value of [0, top]) {
    figure.append(
      svg("line", { x1: BOX.left, x2: WIDTH - BOX.right, y1: y(value), y2: y(value), stroke: "currentColor", opacity: 0.25 }),
      svg("text", { ...label, x: 2, y: y(value) + 3 }, value ? value.toFixed(1) : "0"),
    );
  }
  const mark = (n, kind, attributes) => {
    if (n !== null && n !== undefined) figure.append(svg("line", { x1: x(n), x2: x(n), y1: BOX.top, y2: HEIGHT - BOX.bottom, "data-mark": kind, ...attributes }));
  };
  mark(marks.found, "found", { stroke: "#22c55e", "stroke-dasharray": "4 3" });
  mark(marks.chosen, "chosen", { stroke: "var(--partedit-accent)", "stroke-width": 2 });
  mark(marks.hovered, "hovered", { stroke: "currentColor", opacity: 0.7 });
  LINES.forEach(([key, name, stroke], number) => {
    const points = candidates.map((one) => `${x(one.n).toFixed(1)},${y(one[key]).toFixed(1)}`).join(" ");
    figure.append(svg("polyline", { points, fill: "none", stroke, "stroke-width": 1.5 }));
    for (const one of candidates) figure.append(svg("circle", { cx: x(one.n), cy: y(one[key]), r: one.n === marks.hovered ? 4 : 2.2, ...(one.length === null ? { fill: stroke } : { fill: "none", stroke }) }));
    figure.append(svg("text", { ...label, fill: stroke, x: BOX.left + 4 + number * 34, y: 12 }, name));
  });
  const shown = marks.hovered ?? marks.chosen;
  const free = (n) => shown === null || shown === undefined || Math.abs(x(n) - x(shown)) > 16;
  if (free(0)) figure.append(svg("text", { ...label, x: BOX.left, y: HEIGHT - 7 }, "0"));
  if (free(steps)) figure.append(svg("text", { ...label, x: WIDTH - BOX.right, y: HEIGHT - 7, "text-anchor": "end" }, steps));
  if (shown !== null && shown !== undefined) figure.append(svg("text", { ...label, x: x(shown), y: HEIGHT - 7, "text-anchor": "middle", "font-weight": 600 }, shown));
  return figure;
}

/** The step of the candidate under the pointer, or null. */
export function stepAt(figure, candidates, steps, event) {
  if (!figure) return null;
  const box = figure.getBoundingClientRect();
  const scale = Math.min(box.width / WIDTH, box.height / HEIGHT) || 1;
  const at = (event.clientX - box.left - (box.width - WIDTH * scale) / 2) / scale;
  const share = (at - BOX.left) / (WIDTH - BOX.left - BOX.right);
  const distance = (one) => Math.abs(one.n / Math.max(1, steps) - share);
  return candidates.reduce((best, one) => (best === null || distance(one) < distance(best) ? one : best), null)?.n ?? null;
}
