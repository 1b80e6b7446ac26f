// TrainPartToken: loss, IoU and held-out images as they come; a button that stops it and keeps the best token.

import { dataUrl, finite, html, list } from "../lib/dom.js";
import { addFrame, onceAFrame } from "../lib/frame.js";
import { api, connect, viewUrl } from "../lib/host.js";
import { texts } from "../lib/texts.js";
import { folded, report } from "./report.js";
import { evaluationAt, trainingCurves } from "./training_curves.js";

const HEIGHT = 320;
const STOP = "/partedit/stop";

const two = (value) => (finite(value) === null ? "–" : value.toFixed(2));

/** The curves of a message or an output, or null if it has none. */
function curvesOf(raw) {
  const steps = finite(raw?.steps) ?? finite(raw?.step);
  if (!(steps > 0)) return null;
  const rows = (rows) => list(rows).filter((row) => Array.isArray(row) && finite(row[0]) !== null && finite(row[1]) !== null);
  return {
    steps,
    step: finite(raw.step, 0),
    best: finite(raw.best, 0),
    losses: rows(raw.losses).map(([step, loss]) => [step, loss]),
    evaluations: rows(raw.evaluations).map(([step, training, held]) => [step, training, finite(held)]),
  };
}

class TrainingBoard {
  constructor(node) {
    this.node = node;
    this.words = texts();
    this.frame = addFrame(node, "partedit_training", this.words.trainingHint);
    this.at = 0;
    this.pictures = [];
    this.hovered = null;
    this.draw = onceAFrame(() => this.paint());
    this.build();
    connect(node, this);
  }

  build() {
    const { words } = this;
    this.note = html("span", { class: "partedit-note partedit-grow partedit-wrap", role: "status" });
    this.stop = html("button", { type: "button", class: "partedit-run", click: () => this.ask() }, words.stopBest);
    this.stop.title = words.stopHelp;
    this.large = html("img", { class: "partedit-large", alt: words.overlay });
    // The listeners are outside the drawing, which is made anew under the pointer.
    this.plot = html("div", {
      class: "partedit-plot", tabindex: 0,
      pointermove: (event) => this.hover(this.curves && evaluationAt(this.plot.firstChild, this.curves, event)),
      pointerleave: () => this.hover(null), blur: () => this.hover(null), keydown: (event) => this.key(event),
    });
    this.sheet = html("div", { class: "partedit-sheet", role: "group", "aria-label": words.overlays });
    this.plain = folded(words);
    this.body = [html("div", { class: "partedit-bar" }, this.note, this.stop), html("div", { class: "partedit-pane" }, html("div", { class: "partedit-split" }, this.large, this.plot)), this.sheet, this.plain];
  }

  /** Take the hint's place, once there is something to show. */
  show(curves, pictures) {
    this.frame.fill(HEIGHT, ...this.body);
    this.curves = curves;
    this.hovered = null;
    if (pictures.length) this.pictures = pictures;
    this.at = Math.min(this.at, Math.max(0, this.pictures.length - 1));
    this.draw();
  }

  // --- while it trains ----------------------------------------------------------------------------------

  live(message) {
    if (message.kind !== "training" || (message.prompt_id && message.prompt_id === this.ended)) return;
    const curves = curvesOf(message);
    if (!curves) return;
    // The same object for the whole run: the answer to a stop may come after further messages.
    if (!this.running || this.running.prompt !== message.prompt_id) {
      this.pictures = [];
      this.running = { prompt: message.prompt_id, node: message.node, asked: false };
    }
    this.told = null;
    this.show(curves, list(message.pictures).map((data) => dataUrl("jpeg", data)).filter(Boolean));
  }

  /** Ask the server to end the training; its node then goes on with the best token so far. */
  async ask() {
    const { running, words } = this;
    if (!running || running.asked) return;
    running.asked = true;
    this.draw();
    let there = false;
    try {
      const body = JSON.stringify({ prompt_id: String(running.prompt), node: String(running.node) });
      there = (await api.fetchApi(STOP, { method: "POST", headers: { "Content-Type": "application/json" }, body })).ok;
    } catch {
      // said below
    }
    if (there || this.running !== running) return;
    running.asked = false;
    this.say(words.notStopped);
  }

  stopped(prompt) {
    this.ended = prompt;
    if (this.running) this.say(this.words.stopped);
    this.running = null;
  }

  connection(there) {
    if (!there && this.running) this.say(this.words.lost);
  }

  // --- afterwards ---------------------------------------------------------------------------------------

  executed(output) {
    const found = list(output?.partedit_training)[0];
    const curves = curvesOf(found);
    if (!curves) return report(this.node, output);
    this.ended = this.running?.prompt ?? this.ended;
    this.running = this.told = null;
    const parts = list(found.part_iou).filter(Array.isArray).map(([name, value]) => `${name} ${two(value)}`);
    const by = { hand: this.words.byTheButton, patience: this.words.byPatience }[found.stopped_by];
    const more = finite(found.left_out, 0);
    this.result = [this.words.returned(curves.best), `IoU ${parts.join(", ")}`, by?.(curves.step), more > 0 && this.words.heldOutMore(more)].filter(Boolean).join(" · ");
    this.pictures = [];
    // Not a widget of its own below this one: Nodes 2.0 would give it half of what a taller node has to spare.
    this.plain.lastChild.textContent = list(output.text).join("\n");
    this.show(curves, list(found.pictures).map(viewUrl).filter(Boolean));
  }

  // --- by hand ------------------------------------------------------------------------------------------

  hover(step) {
    if (step === this.hovered) return;
    this.hovered = step;
    this.draw();
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const steps = this.curves?.evaluations.map(([step]) => step) ?? [];
    if (!by || !steps.length) return;
    event.preventDefault();
    const now = this.hovered === null ? (by > 0 ? -1 : steps.length) : steps.indexOf(this.hovered);
    this.hover(steps[Math.min(steps.length - 1, Math.max(0, now + by))]);
  }

  say(text) {
    this.told = text;
    this.draw();
  }

  describe() {
    const { words, curves } = this;
    const seen = curves.evaluations.find(([step]) => step === this.hovered);
    if (seen) return [words.step(seen[0], curves.steps), `IoU ${two(seen[1])}`, seen[2] === null ? "" : `${words.heldOutIou} ${two(seen[2])}`].filter(Boolean).join(" · ");
    if (this.told) return this.told;
    if (!this.running) return this.result ?? "";
    const best = curves.evaluations.find(([step]) => step === curves.best);
    return [words.training(curves.step, curves.steps), best && words.bestSoFar(two(best[2] ?? best[1]), best[0])].filter(Boolean).join(" · ");
  }

  paint() {
    const { curves, words } = this;
    if (!curves) return;
    this.plot.replaceChildren(trainingCurves(curves, this.hovered, words));
    this.note.textContent = this.describe();
    this.note.title = this.note.textContent;
    this.stop.hidden = !this.running;
    this.plain.hidden = Boolean(this.running);
    this.stop.disabled = Boolean(this.running?.asked);
    this.stop.textContent = this.running?.asked ? words.stopping : words.stopBest;
    const shown = this.pictures[this.at];
    this.large.hidden = !shown;
    if (shown && this.large.getAttribute("src") !== shown) this.large.src = shown;
    this.tiles();
  }

  /** The small pictures; their buttons stay the same while only what they show changes, so that the focus stays. */
  tiles() {
    this.sheet.hidden = this.pictures.length < 2;
    if (this.sheet.children.length !== this.pictures.length) {
      const tile = (place) => html("button", { type: "button", "aria-label": this.words.image(place + 1), click: () => this.choose(place) }, html("img", { alt: "", draggable: "false" }));
      this.sheet.replaceChildren(...this.pictures.map((_, place) => tile(place)));
    }
    [...this.sheet.children].forEach((button, place) => {
      button.setAttribute("aria-pressed", String(place === this.at));
      const image = button.firstChild;
      if (image.getAttribute("src") !== this.pictures[place]) image.src = this.pictures[place];
    });
  }

  choose(place) {
    this.at = place;
    this.draw();
  }
}

/** Adds the widget to a Train Part Token. */
export function addTrainingBoard(node) {
  return new TrainingBoard(node);
}
