// Shows in a node what it reported when it ran: a text (ui.text) and curves (ui.curve).

import { finite, html, list, svg } from "../lib/dom.js";
import { addFrame } from "../lib/frame.js";
import { connect } from "../lib/host.js";

const COLOURS = ["#f5a623", "#4aa8ff", "#7ed957", "#e05cd0"];
const WIDTH = 320;
const HEIGHT = 150;
const MARGIN = { left: 30, right: 8, top: 20, bottom: 22 };

/** Smallest and largest finite value; [0, 1] when there is none. */
function extent(values) {
  const numbers = values.filter(Number.isFinite);
  return numbers.length ? [Math.min(...numbers), Math.max(...numbers)] : [0, 1];
}

/** Maps low … high to from … to; a single value goes to the middle. */
function scale([low, high], from, to) {
  return (value) => (low === high ? (from + to) / 2 : from + ((value - low) / (high - low)) * (to - from));
}

/** One plot: {title, x: [..], series: {name: [..]}, best: x of the chosen step or null}. */
function plot(raw) {
  const curve = raw && typeof raw === "object" ? raw : {};
  // Whatever was sent: a point is drawn where both of its numbers are numbers.
  const series = Object.entries(curve.series ?? {}).map(([name, values]) => [name, list(values).map((value, place) => [finite(list(curve.x)[place]), finite(value)])]);
  const seen = series.flatMap(([, points]) => points);
  const [left, right] = extent(list(curve.x));
  const [low, high] = extent(seen.map(([, value]) => value));
  const toX = scale([left, right], MARGIN.left, WIDTH - MARGIN.right);
  const toY = scale([low, high], HEIGHT - MARGIN.bottom, MARGIN.top);
  const figure = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: "100%", role: "img" });
  const label = { fill: "currentColor", "font-size": 10, "font-family": "sans-serif" };
  figure.append(
    svg("title", {}, curve.title ?? "scores"),
    svg("text", { ...label, x: MARGIN.left, y: 12 }, curve.title ?? ""),
    svg("text", { ...label, x: 2, y: MARGIN.top + 4 }, high.toFixed(2)),
    svg("text", { ...label, x: 2, y: HEIGHT - MARGIN.bottom + 4 }, low.toFixed(2)),
    svg("text", { ...label, x: MARGIN.left, y: HEIGHT - 8 }, String(left)),
    svg("text", { ...label, x: WIDTH - MARGIN.right, y: HEIGHT - 8, "text-anchor": "end" }, String(right)),
  );
  if (curve.best >= left && curve.best <= right) {
    const at = toX(curve.best);
    figure.append(
      svg("line", { x1: at, x2: at, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, stroke: "currentColor", "stroke-dasharray": "3 3" }),
      svg("text", { ...label, x: at, y: HEIGHT - 8, "text-anchor": "middle" }, String(curve.best)),
    );
  }
  series.forEach(([name, all], index) => {
    const stroke = COLOURS[index % COLOURS.length];
    const points = all
      .filter(([at, value]) => at !== null && value !== null)
      .map(([at, value]) => `${toX(at).toFixed(1)},${toY(value).toFixed(1)}`);
    // A line needs two points to be seen.
    if (points.length === 1) points.push(points[0].replace(/^[^,]+/, (x) => Number(x) + 2));
    figure.append(
      svg("polyline", { points: points.join(" "), fill: "none", stroke, "stroke-width": 1.6 }),
      svg("text", { ...label, fill: stroke, x: WIDTH - MARGIN.right, y: 12 + index * 11, "text-anchor": "end" }, name),
    );
  });
  return figure;
}

/** The frame of that name on the node, made when it is first needed. */
function area(node, name, height) {
  node.parteditFrames ??= {};
  const frame = (node.parteditFrames[name] ??= addFrame(node, name, "", 0));
  frame.element.classList.add("partedit-report");
  frame.open(height);
  return frame.element;
}

/** Shows on the node what it reported. */
export function report(node, output) {
  const text = output?.text;
  if (text?.length) {
    const element = area(node, "partedit_text", 60);
    // A long text is scrolled: in Nodes 2.0 the node would grow with it, over the nodes below.
    element.style.maxHeight = "150px";
    element.textContent = (Array.isArray(text) ? text : [text]).join("\n");
  }
  const curves = list(output?.curve);
  if (curves.length) area(node, "partedit_curve", (HEIGHT + 30) * Math.min(curves.length, 3)).replaceChildren(...curves.map(plot));
}

/** A text that is folded until it is asked for; it goes into the last child. */
export function folded(words) {
  return html("details", { class: "partedit-plain" }, html("summary", {}, words.asText), html("div", { class: "partedit-report" }));
}

/** Adds the report to a node. */
export function addReport(node) {
  connect(node, { executed: (output) => report(node, output) });
}
