// PartEditPrompt: the words of source and edit in two lines, with threads between them, and a share for each word.

import { finite, html, list, svg } from "../lib/dom.js";
import { addFrame, onceAFrame } from "../lib/frame.js";
import { connect, settable, setValue } from "../lib/host.js";
import { texts } from "../lib/texts.js";
import { folded, report } from "./report.js";
import { canBeSet, shareColour, shareOf, withShare } from "./word_shares.js";

const LINE = 92;
const BELOW = 76;
const MOST = 2;
const FONT = "12px system-ui, sans-serif";
const pen = document.createElement("canvas").getContext("2d");

/** Where each word of a line begins and how wide it is. */
function places(words) {
  pen.font = FONT;
  let x = 6;
  return words.map(({ text, glued }, number) => {
    if (number && !glued) x += 7;
    const width = pen.measureText(text).width + 8;
    const place = { x, width, middle: x + width / 2 };
    x += width;
    return place;
  });
}

class WordThreads {
  constructor(node) {
    this.node = node;
    this.words = texts();
    this.frame = addFrame(node, "partedit_words", this.words.wordsHint);
    this.draw = onceAFrame(() => this.paint());
    this.lines = html("div", { class: "partedit-lines" });
    this.name = html("b", { class: "partedit-word" });
    this.slider = html("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": this.words.share,
      input: () => this.set(Number(this.slider.value), true), change: () => this.set(Number(this.slider.value)) });
    this.amount = html("span", { class: "partedit-amount" });
    this.standard = html("button", { type: "button", click: () => this.set(null) }, this.words.standard);
    this.bar = html("div", { class: "partedit-bar" }, this.name, this.slider, this.amount, this.standard);
    this.note = html("span", { class: "partedit-note partedit-grow", role: "status" });
    this.plain = folded(this.words);
    this.body = [this.lines, this.bar, html("div", { class: "partedit-bar" }, this.note), this.plain];
    connect(node, this);
  }

  executed(output) {
    const edits = list(output?.partedit_threads).map((edit) => ({
      text: String(edit?.text ?? ""),
      source: list(edit?.source).map((word) => ({ text: String(word?.[0] ?? ""), glued: word?.[1] === true })),
      words: list(edit?.words).map((word) => ({
        text: String(word?.text ?? ""), glued: word?.glued === true, share: finite(word?.share, 0), sources: list(word?.sources).filter(Number.isInteger),
      })),
    }));
    if (!edits.length) return report(this.node, output);
    this.edits = edits;
    this.ran = this.fractions();
    this.chosen = null;
    this.plain.lastChild.textContent = list(output.text).join("\n");
    this.frame.fill(LINE * Math.min(edits.length, MOST) + BELOW, ...this.body);
    this.draw();
  }

  /** What stands in word_fractions. */
  fractions() {
    return String(settable(this.node, "word_fractions")?.value ?? "");
  }

  choose(word) {
    this.chosen = word;
    this.draw();
  }

  set(share, passing = false) {
    const widget = settable(this.node, "word_fractions");
    if (!widget || !this.chosen) return;
    setValue(this.node, widget, withShare(widget.value, this.chosen.text, share), passing);
    this.draw();
  }

  /** The share of the next run; null where it is the standard one, which only a run can tell once a word was set. */
  share(word) {
    const own = shareOf(this.fractions(), word.text);
    if (own !== null) return own;
    return shareOf(this.ran, word.text) === null ? word.share : null;
  }

  paint() {
    if (!this.edits) return;
    const focused = document.activeElement?.dataset?.word;
    this.lines.replaceChildren(...this.edits.map((edit, number) => this.line(edit, number)));
    if (focused) this.lines.querySelector(`[data-word="${CSS.escape(focused)}"]`)?.focus();
    const { chosen, words } = this;
    const linked = !settable(this.node, "word_fractions");
    this.bar.hidden = !chosen || linked || !canBeSet(chosen.text);
    if (chosen) {
      const share = this.share(chosen);
      this.name.textContent = chosen.text;
      this.slider.value = String(share ?? chosen.share);
      this.amount.textContent = share === null ? "–" : `${Math.round(share * 100)} %`;
      this.standard.disabled = shareOf(this.fractions(), chosen.text) === null;
    }
    const state = this.fractions() !== this.ran ? words.pending : "";
    this.note.textContent = linked ? words.linkedWords : state || (chosen ? words.shareHelp : words.clickWord);
    this.note.title = this.note.textContent;
  }

  line(edit, number) {
    if (!edit.words.length) return html("div", { class: "partedit-off" }, edit.text, " · ", this.words.free);
    const [above, below] = [places(edit.source), places(edit.words)];
    const width = Math.max(...[...above, ...below].map((place) => place.x + place.width), 60) + 6;
    const figure = svg("svg", { width, height: LINE - 8, viewBox: `0 0 ${width} ${LINE - 8}`, role: "group", "aria-label": edit.text });
    const followed = new Set(edit.words.flatMap((word) => word.sources));
    edit.words.forEach((word, at) => {
      const share = this.share(word) ?? 0.5;
      for (const from of word.sources) {
        const [a, b] = [above[from], below[at]];
        if (!a) continue;
        const d = `M${a.middle},22 C${a.middle},42 ${b.middle},40 ${b.middle},60`;
        figure.append(svg("path", { d, fill: "none", stroke: shareColour(share), "stroke-width": 1 + 2 * share, opacity: 0.9 }));
      }
    });
    edit.source.forEach((word, at) => {
      const gone = !followed.has(at);
      figure.append(svg("text", { x: above[at].x + 4, y: 17, fill: "currentColor", opacity: gone ? 0.5 : 1, "text-decoration": gone ? "line-through" : null }, word.text));
    });
    edit.words.forEach((word, at) => figure.append(this.word(word, below[at], `${number}.${at}`)));
    return figure;
  }

  word(word, { x, width }, key) {
    const share = this.share(word);
    const inserted = !word.sources.length;
    const label = `${word.text}: ${share === null ? this.words.standard : `${Math.round(share * 100)} %`}`;
    const choose = () => this.choose(word);
    return svg(
      "g",
      {
        class: "partedit-thread", role: "button", tabindex: 0, "data-word": key, "aria-label": label, "aria-pressed": String(this.chosen === word), click: choose,
        keydown: (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          choose();
        },
      },
      svg("title", {}, inserted ? `${label} · ${this.words.inserted}` : label),
      svg("rect", { x, y: 60, width, height: 20, rx: 4, fill: shareColour(share ?? 0.5), "fill-opacity": 0.3, stroke: shareColour(share ?? 0.5), "stroke-dasharray": inserted ? "3 2" : null, "stroke-width": this.chosen === word ? 2.5 : 1 }),
      svg("text", { x: x + 4, y: 74, fill: "currentColor" }, word.text),
    );
  }
}

/** Adds the widget to a PartEdit Prompt. */
export function addWordThreads(node) {
  return new WordThreads(node);
}
