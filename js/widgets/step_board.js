// InversionStepSearch: candidates as they come; then a sheet and curves from which a step is chosen by a click.

import { finite, html, list } from "../lib/dom.js";
import { addFrame, onceAFrame } from "../lib/frame.js";
import { app, connect, setValue, settable, viewUrl } from "../lib/host.js";
import { texts } from "../lib/texts.js";
import { readSteps, writeSteps } from "./overrides.js";
import { report } from "./report.js";
import { scoreCurves, stepAt } from "./score_curves.js";

const HEIGHT = 380;

/** Values scaled to 0 … 1 as the search does it; equal ones become 0. */
function scaled(values) {
  const low = Math.min(...values);
  const span = Math.max(...values) - low;
  return values.map((value) => (span > 1e-9 ? (value - low) / span : 0));
}

/** A candidate as the widget keeps it, or null if it is none. */
function candidate(raw) {
  const n = finite(raw?.n);
  if (n === null) return null;
  return { n, length: finite(raw.length), total: finite(raw.total, 0), edit: finite(raw.edit, 0), keep: finite(raw.keep, 0), picture: viewUrl(raw.file) };
}

class StepBoard {
  constructor(node) {
    this.node = node;
    this.words = texts();
    this.frame = addFrame(node, "partedit_board", this.words.searchHint);
    this.pairs = [];
    this.at = 0;
    this.hovered = null;
    this.draw = onceAFrame(() => this.paint());
    this.build();
    connect(node, this);
  }

  build() {
    const { words } = this;
    this.select = html("select", { "aria-label": words.pair, change: () => this.show(Number(this.select.value)) });
    this.reset = html("button", { type: "button", click: () => this.choose(this.pair?.found ?? null, true) }, words.reset);
    this.run = html("button", { type: "button", class: "partedit-run", click: () => app.queuePrompt(0, 1) }, words.run);
    this.large = html("img", { class: "partedit-large", alt: "" });
    // The listeners are outside the drawing, which is made anew under the pointer.
    const under = (event) => this.pair && stepAt(this.curves.firstChild, this.pair.candidates, this.steps, event);
    this.curves = html("div", {
      class: "partedit-plot",
      pointermove: (event) => this.hover(under(event)), pointerleave: () => this.hover(null),
      // No click: the page may move the element between press and release, when the node comes to the front.
      pointerdown: (event) => (this.pressed = event.button === 0), pointerup: (event) => this.release(under(event)),
    });
    this.sheet = html("div", { class: "partedit-sheet", role: "group", "aria-label": words.candidates, keydown: (event) => this.key(event) });
    this.note = html("span", { class: "partedit-note partedit-grow", role: "status" });
    this.body = [
      html("div", { class: "partedit-bar" }, html("span", { class: "partedit-grow partedit-bar" }, this.select), this.reset, this.run),
      html("div", { class: "partedit-pane" }, html("div", { class: "partedit-split" }, this.large, this.curves)),
      this.sheet,
      html("div", { class: "partedit-bar" }, this.note),
    ];
  }

  get pair() {
    return this.pairs[this.at];
  }

  open(pairs, steps) {
    this.frame.fill(HEIGHT, ...this.body);
    this.pairs = pairs;
    this.steps = steps;
    this.at = Math.min(this.at, pairs.length - 1);
    this.hovered = null;
    this.select.replaceChildren(...pairs.map((pair, place) => html("option", { value: place }, `${place + 1}: ${pair.label}`)));
    this.select.value = String(this.at);
    this.select.disabled = pairs.length < 2;
  }

  // --- while it searches --------------------------------------------------------------------------------

  live(message) {
    if (message.prompt_id && message.prompt_id === this.ended) return;
    if (message.kind === "search") this.begin(message);
    if (message.kind !== "candidate") return;
    // The page was loaded, or its workflow came to the front, in the middle of the search.
    if (!this.searching) {
      this.begin(message);
      for (const earlier of list(message.earlier)) this.add(earlier);
    }
    this.add(message);
  }

  begin(message) {
    if (!list(message.pairs).length) return;
    const pairs = message.pairs.map((label) => ({ label: String(label), chosen: null, found: null, candidates: [], raw: new Map() }));
    this.open(pairs, finite(message.steps, 1));
    this.weight = finite(message.edit_weight, 1);
    this.searching = true;
    this.say(this.words.searching(0));
  }

  add(message) {
    const pair = this.pairs[message?.pair];
    if (!this.searching || !pair || !candidate(message)) return;
    pair.raw.set(message.n, candidate(message));
    const all = [...pair.raw.values()].sort((one, other) => one.n - other.n);
    const [edit, keep] = [scaled(all.map((one) => one.edit)), scaled(all.map((one) => one.keep))];
    pair.candidates = all.map((one, place) => ({ ...one, edit: edit[place], keep: keep[place], total: this.weight * edit[place] + keep[place] }));
    pair.newest = message.n;
    this.say(this.words.searching(this.pairs.reduce((sum, one) => sum + one.candidates.length, 0)));
  }

  stopped(prompt) {
    this.ended = prompt;
    if (this.searching) this.say(this.words.stopped);
    this.searching = false;
  }

  connection(there) {
    if (!there && this.searching) this.say(this.words.lost);
  }

  // --- afterwards ---------------------------------------------------------------------------------------

  executed(output) {
    const found = list(output?.partedit_board)[0];
    const pairs = list(found?.pairs).map((pair) => ({
      label: String(pair?.label ?? ""),
      chosen: finite(pair?.chosen),
      found: finite(pair?.found),
      candidates: list(pair?.candidates).map(candidate).filter(Boolean),
    }));
    if (!pairs.some((pair) => pair.candidates.length)) return report(this.node, output);
    this.searching = false;
    this.open(pairs, finite(found.steps, 1));
    this.summary = list(output.text).join("\n");
    this.say(null);
  }

  show(place) {
    this.at = place;
    this.hovered = null;
    this.say(null);
  }

  /** The step that the next run takes for a pair: set by hand, or what is found. */
  wanted(place) {
    return readSteps(settable(this.node, "overrides")?.value, this.pairs.length)[place] ?? this.pairs[place].found;
  }

  /** Make a candidate the pair's step; the one found is what the search would choose anyway. */
  choose(n, reset = false) {
    if (this.searching || !this.pair || (n === null && !reset)) return;
    const widget = settable(this.node, "overrides");
    if (!widget) return this.say(this.words.linked);
    const steps = readSteps(widget.value, this.pairs.length);
    steps[this.at] = n === this.pair.found ? null : n;
    setValue(this.node, widget, writeSteps(steps));
    this.say(null);
  }

  /** Choose by its button, which is in view: moving the sheet would bring another one under the pointer. */
  pick(n) {
    this.seen = `${this.at} ${n}`;
    this.choose(n);
  }

  release(n) {
    if (this.pressed) this.choose(n);
    this.pressed = false;
  }

  hover(n) {
    if (n === this.hovered) return;
    this.hovered = n;
    this.say(null);
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const buttons = [...this.sheet.querySelectorAll("button")];
    const next = by && buttons[buttons.indexOf(event.target) + by];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  say(text) {
    this.told = text;
    this.draw();
  }

  describe(one) {
    const { words, pair } = this;
    const parts = [words.scores(one.n, one.total.toFixed(2), one.edit.toFixed(2), one.keep.toFixed(2))];
    if (one.length !== null) parts.push(words.shortRun(one.length, one.n));
    if (one.n === pair.found) parts.push(words.found);
    else if (one.n === this.wanted(this.at)) parts.push(words.byHand);
    return parts.join(" · ");
  }

  paint() {
    const { pair, words } = this;
    if (!pair) return;
    const chosen = this.searching ? null : this.wanted(this.at);
    const shown = this.hovered ?? chosen ?? pair.newest ?? null;
    const one = pair.candidates.find((each) => each.n === shown);
    this.curves.replaceChildren(scoreCurves(pair.candidates, this.steps, { chosen, found: pair.found, hovered: this.hovered }));
    this.large.hidden = !one?.picture;
    if (one?.picture && this.large.getAttribute("src") !== one.picture) this.large.src = one.picture;
    this.tiles(pair, chosen);
    const pending = !this.searching && this.pairs.some((each, place) => this.wanted(place) !== each.chosen);
    this.run.hidden = !pending;
    this.reset.disabled = this.searching || chosen === pair.found;
    this.note.textContent = this.told ?? [one ? this.describe(one) : "", pending ? words.pending : ""].filter(Boolean).join(" · ");
    this.note.title = [this.note.textContent, this.summary].filter(Boolean).join("\n");
  }

  /** The sheet; its buttons stay the same as long as the candidates do, so that the focus stays. */
  tiles(pair, chosen) {
    const key = pair.candidates.map((one) => `${one.n} ${one.length} ${one.picture}`).join("\n");
    if (this.tiled !== key) {
      this.tiled = key;
      this.sheet.replaceChildren(
        ...pair.candidates.map((one) =>
          html(
            "button",
            { type: "button", "data-step": one.n, click: () => this.pick(one.n), pointerenter: () => this.hover(one.n), pointerleave: () => this.hover(null), focus: () => this.hover(one.n), blur: () => this.hover(null) },
            one.picture ? html("img", { src: one.picture, alt: "", loading: "lazy", draggable: "false" }) : null,
            html("span", {}, one.length === null ? one.n : `~ ${one.n}`),
          ),
        ),
      );
    }
    for (const button of this.sheet.children) {
      const n = Number(button.dataset.step);
      button.setAttribute("aria-pressed", String(n === chosen));
      button.classList.toggle("partedit-found", n === pair.found);
      const one = pair.candidates.find((each) => each.n === n);
      button.setAttribute("aria-label", this.describe(one));
    }
    // The chosen one, or while searching the newest, is brought into view once, not whenever the pointer moves.
    const seen = `${this.at} ${chosen ?? pair.newest}`;
    const button = [...this.sheet.children].find((each) => Number(each.dataset.step) === (chosen ?? pair.newest));
    if (!button || this.seen === seen) return;
    this.seen = seen;
    this.sheet.scrollLeft = button.offsetLeft - this.sheet.offsetLeft - (this.sheet.clientWidth - button.offsetWidth) / 2;
  }
}

/** Adds the widget to an Inversion Step Search. */
export function addStepBoard(node) {
  return new StepBoard(node);
}
