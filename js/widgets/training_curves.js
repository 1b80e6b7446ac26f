// The curves of a training: its loss above, the IoU below, answering the pointer.

import { svg } from "../lib/dom.js";

const WIDTH = 200;
const HEIGHT = 170;
const BOX = { left: 36, right: 8 };
const LOSS = { top: 16, bottom: 68 };
const IOU = { top: 88, bottom: 152 };
const BLUE = "#38a0f8";
const PINK = "#f0609e";
const GREEN = "#22c55e";
const LABEL = { fill: "currentColor", "font-size": 10 };

// The axis ends at the last step so far: of many steps, the first ones would be too narrow to be seen.
const across = (steps) => (step) => BOX.left + (step / Math.max(1, steps)) * (WIDTH - BOX.left - BOX.right);

/** A line of points [x, y]; one point is made wide enough to be seen. */
function line(points, stroke, kind) {
  const all = points.length === 1 ? [points[0], [points[0][0] + 2, points[0][1]]] : points;
  return svg("polyline", { points: all.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" "), fill: "none", stroke, "stroke-width": 1.5, "data-line": kind });
}

function panel(figure, { top, bottom }, marks) {
  for (const [y, text] of [[top, marks[0]], [bottom, marks[1]]]) {
    figure.append(
      svg("line", { x1: BOX.left, x2: WIDTH - BOX.right, y1: y, y2: y, stroke: "currentColor", opacity: 0.25 }),
      svg("text", { ...LABEL, x: BOX.left - 4, y: y + 3, "text-anchor": "end" }, text),
    );
  }
}

const shortest = (value) => (value >= 0.01 && value < 1000 ? String(Number(value.toPrecision(2))) : value.toExponential(0));

/** The figure of {losses: [[step, loss]], evaluations: [[step, training, held out or null]], step, best}; words name the lines. */
export function trainingCurves({ losses, evaluations, step: steps, best }, hovered, words) {
  const x = across(steps);
  const figure = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "partedit-curves", role: "img", "aria-label": `${words.loss}, ${words.iou}` });
  const logs = losses.map(([step, loss]) => [step, Math.log10(Math.max(loss, 1e-12))]);
  const low = Math.min(...logs.map(([, value]) => value));
  const high = Math.max(...logs.map(([, value]) => value));
  const depth = (value) => (high > low ? LOSS.bottom - ((value - low) / (high - low)) * (LOSS.bottom - LOSS.top) : (LOSS.top + LOSS.bottom) / 2);
  panel(figure, LOSS, logs.length ? [shortest(10 ** high), shortest(10 ** low)] : ["", ""]);
  panel(figure, IOU, ["1", "0"]);
  figure.append(svg("text", { ...LABEL, x: BOX.left, y: 11 }, words.loss));
  const names = [[words.trainingIou, BLUE], ...(evaluations.some(([, , held]) => held !== null) ? [[words.heldOutIou, PINK]] : [])];
  figure.append(svg("text", { ...LABEL, x: BOX.left, y: 83 }, "IoU", ...names.map(([name, fill]) => svg("tspan", { fill, dx: 6 }, name))));
  const mark = (step, kind, attributes) => {
    if (step) figure.append(svg("line", { x1: x(step), x2: x(step), y1: LOSS.top, y2: IOU.bottom, "data-mark": kind, ...attributes }));
  };
  mark(best, "best", { stroke: GREEN, "stroke-dasharray": "4 3" });
  mark(hovered, "hovered", { stroke: "currentColor", opacity: 0.7 });
  const height = (value) => IOU.bottom - Math.min(1, Math.max(0, value)) * (IOU.bottom - IOU.top);
  if (logs.length) figure.append(line(logs.map(([step, value]) => [x(step), depth(value)]), "currentColor", "loss"));
  for (const [place, stroke, kind] of [[1, BLUE, "training"], [2, PINK, "held out"]]) {
    const points = evaluations.filter((one) => one[place] !== null).map((one) => [x(one[0]), height(one[place])]);
    if (points.length) figure.append(line(points, stroke, kind));
  }
  figure.append(svg("text", { ...LABEL, x: BOX.left, y: HEIGHT - 5 }, "0"), svg("text", { ...LABEL, x: WIDTH - BOX.right, y: HEIGHT - 5, "text-anchor": "end" }, steps));
  return figure;
}

/** The step of the evaluation under the pointer, or null. */
export function evaluationAt(figure, { evaluations, step: steps }, event) {
  if (!figure || !evaluations.length) return null;
  const box = figure.getBoundingClientRect();
  const scale = Math.min(box.width / WIDTH, box.height / HEIGHT) || 1;
  const at = (event.clientX - box.left - (box.width - WIDTH * scale) / 2) / scale;
  const x = across(steps);
  return evaluations.reduce((one, other) => (Math.abs(x(other[0]) - at) < Math.abs(x(one[0]) - at) ? other : one))[0];
}
