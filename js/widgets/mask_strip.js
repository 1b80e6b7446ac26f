// FeatureBlendSampler: the mask over the image while it samples; afterwards all steps, and before against after.

import { dataUrl, finite, html, list, picture } from "../lib/dom.js";
import { addFrame, onceAFrame } from "../lib/frame.js";
import { connect, viewUrl } from "../lib/host.js";
import { texts } from "../lib/texts.js";
import { drawCompared, drawMask, shareAt, sheetTile, tile } from "./mask_drawing.js";

const HEIGHT = 320;
const MODES = ["edit", "source", "compare"];

/** A number as on a scale of 0 … 1, or a dash. */
const shown = (value) => (finite(value) === null ? "–" : value.toFixed(2));

class MaskStrip {
  constructor(node) {
    this.words = texts();
    this.frame = addFrame(node, "partedit_mask", this.words.maskHint);
    this.mode = "edit";
    this.place = 0;
    this.row = 0;
    this.share = 0.5;
    this.draw = onceAFrame(() => this.paint());
    this.build();
    connect(node, this);
  }

  build() {
    const { words } = this;
    this.view = html("select", { "aria-label": words.edit, change: () => this.choose(Number(this.view.value)) });
    const names = { edit: words.onEdit, source: words.onSource, compare: words.compare };
    this.buttons = MODES.map((mode) => html("button", { type: "button", "data-mode": mode, click: () => this.switchTo(mode) }, names[mode]));
    this.stage = html("canvas", {
      class: "partedit-stage", tabindex: 0, role: "img", width: 384, height: 384,
      pointerdown: (event) => this.drag(event, true), pointermove: (event) => this.drag(event, false),
      keydown: (event) => this.key(event),
    });
    this.scrub = html("input", { type: "range", min: 0, max: 0, step: 1, value: 0, "aria-label": words.scrub, input: () => this.scrubTo(Number(this.scrub.value)) });
    this.note = html("span", { class: "partedit-note partedit-grow", role: "status" });
    const key = (kind) => html("span", { class: "partedit-key", "data-key": kind }, words[kind]);
    this.keys = html("span", { class: "partedit-bar" }, key("part"), key("soft"));
    this.bar = html("div", { class: "partedit-bar partedit-views" }, this.view, ...this.buttons);
    this.body = [this.bar, this.stage, this.scrub, html("div", { class: "partedit-bar" }, this.note, this.keys)];
    this.bar.hidden = this.scrub.hidden = true;
  }

  /** Take the hint's place, once there is something to show. */
  show() {
    this.frame.fill(HEIGHT, ...this.body);
  }

  // --- while it samples ---------------------------------------------------------------------------------

  live(message) {
    const step = finite(message.step);
    const steps = finite(message.steps);
    if (message.kind !== "step" || step === null || steps === null) return;
    if (message.prompt_id && message.prompt_id === this.ended) return;
    this.show();
    this.running = { step: step + 1, steps, places: list(message.places).filter(Number.isInteger), bands: list(message.bands) };
    this.next = { mask: dataUrl("png", message.mask), image: dataUrl("jpeg", message.image), places: this.running.places };
    this.strip = null;
    this.bar.hidden = this.scrub.hidden = true;
    this.keys.hidden = false;
    this.stage.dataset.mode = "live";
    this.say(this.words.sampling(step + 1, steps), this.running.bands[0]);
    this.decode();
  }

  /** Decode the newest step; those that come meanwhile replace each other. */
  async decode() {
    if (this.decoding) return;
    this.decoding = true;
    while (this.next && !this.strip) {
      const { mask, image, places } = this.next;
      this.next = null;
      const [masks, images] = await Promise.all([picture(mask), picture(image)]);
      const column = Math.max(0, places.indexOf(this.place));
      if (masks || images) this.now = { mask: masks && tile(masks, column, places.length), image: images && tile(images, column, places.length) };
      this.draw();
    }
    this.decoding = false;
  }

  stopped(prompt) {
    this.ended = prompt;
    if (this.running && !this.strip) this.say(this.words.stoppedAt(this.running.step, this.running.steps));
    this.running = this.next = null;
  }

  connection(there) {
    if (!there && this.running) this.say(this.words.lost);
  }

  // --- afterwards ---------------------------------------------------------------------------------------

  executed(output) {
    const strip = list(output?.partedit_strip)[0];
    if (!strip || typeof strip !== "object" || !list(strip.steps).length || !list(strip.views).length) return;
    const size = list(strip.size).map((value) => finite(value, 0));
    if (size.length !== 2 || !(size[0] > 0 && size[1] > 0)) return;
    this.show();
    this.running = this.next = null;
    this.strip = { ...strip, size, steps: list(strip.steps).map((step) => finite(step, 0)), views: list(strip.views), bands: list(strip.bands) };
    this.sheet = picture(viewUrl(strip.mask));
    this.row = this.strip.steps.length - 1;
    this.scrub.max = String(this.row);
    this.scrub.value = this.scrub.max;
    this.place = Math.min(this.place, this.strip.views.length - 1);
    const more = finite(strip.left_out, 0);
    this.view.replaceChildren(
      ...this.strip.views.map((view, place) => html("option", { value: place }, this.label(view))),
      ...(more > 0 ? [html("option", { disabled: true }, this.words.notShown(more))] : []),
    );
    this.view.hidden = this.strip.views.length < 2;
    this.view.value = String(this.place);
    this.bar.hidden = this.scrub.hidden = false;
    this.choose(this.place);
  }

  label(view) {
    const several = finite(this.strip.images, 1) > 1;
    return `${view?.label ?? ""}${several ? ` · ${this.words.image(finite(view?.image, 1))}` : ""}`;
  }

  async choose(place) {
    this.place = place;
    const strip = this.strip;
    const view = strip.views[place];
    this.loaded = null;
    const loaded = await Promise.all([this.sheet, picture(viewUrl(view?.edit)), picture(viewUrl(view?.source))]);
    if (this.strip !== strip || this.place !== place) return;
    const [sheet, edit, source] = loaded;
    this.loaded = { sheet, edit, source };
    this.switchTo(this.mode);
  }

  switchTo(mode) {
    this.mode = mode;
    this.stage.dataset.mode = mode;
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    const compare = mode === "compare";
    this.scrub.disabled = compare;
    this.keys.hidden = compare;
    this.stage.setAttribute("role", compare ? "slider" : "img");
    this.stage.setAttribute("aria-label", compare ? this.words.divider : this.words.stage);
    if (compare) this.divide(this.share);
    else this.scrubTo(this.row);
  }

  scrubTo(row) {
    const { steps, bands } = this.strip;
    this.row = Math.min(Math.max(0, row), steps.length - 1);
    this.scrub.value = String(this.row);
    const text = this.words.step(steps[this.row] + 1, steps[steps.length - 1] + 1);
    this.scrub.setAttribute("aria-valuetext", text);
    // What is still being fetched is not gone.
    if (this.loaded && !this.loaded.sheet) this.say(this.words.gone);
    else this.say(text, list(bands[this.row])[this.place]);
    this.draw();
  }

  divide(share) {
    this.share = Math.min(1, Math.max(0, share));
    this.stage.setAttribute("aria-valuenow", String(Math.round(this.share * 100)));
    this.stage.setAttribute("aria-valuemin", "0");
    this.stage.setAttribute("aria-valuemax", "100");
    const { edit, source } = this.loaded ?? {};
    this.say(!this.loaded || (edit && source) ? this.words.compared : this.words.gone);
    this.draw();
  }

  drag(event, start) {
    if (!this.strip || this.mode !== "compare") return;
    if (start) this.stage.setPointerCapture?.(event.pointerId);
    else if (!event.buttons) return;
    this.divide(shareAt(this.stage, event));
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!by || !this.strip) return;
    event.preventDefault();
    if (this.mode === "compare") this.divide(this.share + by * 0.05);
    else this.scrubTo(this.row + by);
  }

  say(text, band) {
    const [low, level, high] = list(band);
    this.note.textContent = finite(level) === null ? text : `${text} · ${this.words.band(shown(low), shown(level), shown(high))}`;
    this.note.title = this.note.textContent;
  }

  paint() {
    if (!this.strip) {
      if (this.now) drawMask(this.stage, this.now.image, this.now.mask);
      return;
    }
    const { sheet, edit, source } = this.loaded ?? {};
    if (this.mode === "compare") return drawCompared(this.stage, source, edit, this.share, [this.words.before, this.words.after]);
    const mask = sheet && sheetTile(sheet, this.row, this.place, this.strip.size);
    drawMask(this.stage, this.mode === "source" ? source : edit, mask);
  }
}

/** Adds the widget to a Feature Blend Sampler. */
export function addMaskStrip(node) {
  return new MaskStrip(node);
}
