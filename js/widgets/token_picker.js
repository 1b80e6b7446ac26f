// Load Part Token's widget: the chosen token with its picture, and a list of all tokens to pick from.

import { finite, html, list } from "../lib/dom.js";
import { addFrame } from "../lib/frame.js";
import { api, app, connect, settable, setValue } from "../lib/host.js";
import { texts } from "../lib/texts.js";

const INPUT = "part_token";
const HEIGHT = 66;
// A line with the button; between two widgets, and below the last one in Nodes 2.0, which has the pack's badge there.
const [LINE, GAP, BADGE] = [22, 4, 28];
// Kept from what lies below: the canvas and the editor's keys.
const OWN_EVENTS = ["pointerdown", "pointerup", "mousedown", "keydown", "keyup", "wheel", "contextmenu", "paste", "copy"];
// What the server says of each entry, by its name; newly read whenever the editor refreshes its lists.
let described = {};

/** Takes what the definition of Load Part Token says of the tokens. */
export function learnTokens(definition) {
  const known = definition?.input?.required?.[INPUT]?.[1]?.partedit_tokens;
  described = known && typeof known === "object" ? known : {};
}

/** What is shown of an entry of the list, whatever the server sent. */
function facts(name) {
  const known = Object.hasOwn(described, name) ? described[name] : null;
  const parts = list(known?.parts).map(String);
  const iou = list(known?.iou).map((value) => finite(value));
  const url = String(known?.url ?? "");
  const host = /^https:\/\/([\w.-]+)\//.exec(url)?.[1] ?? null;
  const text = (key) => String(known?.[key] ?? "");
  return {
    name,
    title: parts.join(", ") || name.replace(/\.[^.]*$/, ""),
    family: text("family"),
    iou: iou.length && !iou.includes(null) ? iou.map((value) => value.toFixed(2)).join(", ") : "",
    heldOut: known?.held_out === true,
    preview: Number.isInteger(known?.preview) ? previewUrl(known.preview, name) : null,
    file: text("file"),
    folder: text("folder"),
    licence: text("licence"),
    remark: [text("remark"), text("note")].filter(Boolean).join(". "),
    url: host ? url : null,
    host,
    missing: Boolean(text("file")),
  };
}

/** Where ComfyUI serves the picture that lies beside a token file. */
function previewUrl(folder, name) {
  return api.apiURL(`/experiment/models/preview/part_tokens/${folder}/${name.split("/").map(encodeURIComponent).join("/")}`);
}

/** A token's picture; without one, the first letters of its part. */
function thumbnail(token) {
  const letters = token.title.split(/[\s_]+/).map((word) => word[0] ?? "").join("").slice(0, 2).toUpperCase();
  const drawn = html("span", { class: "partedit-thumb", "aria-hidden": "true" }, letters);
  if (!token.preview) return drawn;
  const image = html("img", { class: "partedit-thumb", alt: "", loading: "lazy", draggable: "false", src: token.preview });
  image.addEventListener("error", () => image.replaceWith(drawn), { once: true });
  return image;
}

/** A link to where a published token can be had. */
function link(token, words) {
  if (!token.url) return null;
  return html("a", { href: token.url, target: "_blank", rel: "noopener noreferrer", title: token.url }, words.getIt(token.host));
}

/** Family and IoU in a line, or what is known instead. */
function line(token, words) {
  const iou = token.iou ? `IoU ${token.iou} ${token.heldOut ? words.onHeldOut : words.onTraining}` : "";
  return [token.family && words.family(token.family), token.missing ? words.notInstalled : iou].filter(Boolean).join(" · ");
}

class TokenPicker {
  constructor(node) {
    this.node = node;
    this.words = texts();
    this.frame = addFrame(node, "partedit_token", "", HEIGHT);
    connect(node, this);
    const paint = () => this.paint();
    const { onConfigure, onConnectionsChange, onResize } = node;
    const fit = (height) => this.fit(height);
    node.onConfigure = function (...values) {
      const result = onConfigure?.apply(this, values);
      fit(finite(values[0]?.size?.[1]));
      paint();
      return result;
    };
    node.onResize = function (...values) {
      const result = onResize?.apply(this, values);
      // Nothing is made anew under the pointer, and the focus stays, as long as it looks the same.
      if (fit(finite(this.size?.[1]))) paint();
      return result;
    };
    node.onConnectionsChange = function (...values) {
      const result = onConnectionsChange?.apply(this, values);
      paint();
      return result;
    };
    const widget = node.widgets?.find((one) => one.name === INPUT);
    if (widget) {
      const { callback } = widget;
      widget.callback = function (...values) {
        const result = callback?.apply(this, values);
        paint();
        return result;
      };
    }
    this.paint();
  }

  /**
   * Take no more than a node of this height has room for: a workflow from before there was this widget has none, and its
   * node would grow over what lies below it. The whole card is back when the node is made higher by hand.
   *
   * Returns whether its height has changed.
   */
  fit(height) {
    if (height === null) return false;
    const before = this.height;
    this.frame.take(0);
    const room = height - this.node.computeSize()[1] - GAP;
    const line = LINE + (window.LiteGraph?.vueNodesMode ? BADGE : 0);
    this.height = room >= HEIGHT ? HEIGHT : room >= line ? LINE : 0;
    this.frame.take(this.height);
    return this.height !== before;
  }

  /** The editor has read the lists of files anew. */
  listed() {
    this.paint();
  }

  removed() {
    this.close();
  }

  /** Takes the list away at once: the browser reports that a dialog has closed some time later. */
  close() {
    const { dialog } = this;
    if (!dialog) return;
    this.dialog = null;
    dialog.close();
    dialog.remove();
    this.button?.focus?.();
  }

  paint() {
    const { words } = this;
    const widget = settable(this.node, INPUT);
    if (!widget) {
      this.frame.element.replaceChildren(html("div", { class: "partedit-note partedit-wrap" }, words.linkedToken));
      return;
    }
    const token = facts(String(widget.value ?? ""));
    const below = html("div", { class: "partedit-note partedit-wrap", title: line(token, words) }, line(token, words) || token.name);
    this.button = html("button", { type: "button", "aria-haspopup": "dialog", click: () => this.open() }, words.choose);
    this.frame.element.replaceChildren(
      html(
        "div",
        { class: this.height === LINE ? "partedit-token partedit-line" : "partedit-token" },
        thumbnail(token),
        html("div", { class: "partedit-grow" }, html("b", { title: token.name }, token.title), below, token.missing ? link(token, words) : null),
        this.button,
      ),
    );
  }

  open() {
    const widget = settable(this.node, INPUT);
    if (!widget || this.dialog?.open) return;
    this.close(); // one that the browser has closed and not reported yet
    const { words } = this;
    const values = widget.options?.values;
    const names = list(typeof values === "function" ? values(widget, this.node) : values).map(String);
    const tokens = names.map(facts);
    const search = html("input", { type: "search", placeholder: words.filter, "aria-label": words.filter, input: () => filter() });
    const close = html("button", { type: "button", "aria-label": words.close, click: () => this.close() }, "✕");
    const cards = new Map(tokens.map((token) => [token, this.card(token, token.name === widget.value)]));
    const group = (title, some) =>
      some.length ? html("section", { "aria-label": title }, html("h4", {}, title), html("div", { class: "partedit-cards" }, ...some.map((token) => cards.get(token)))) : null;
    const groups = [
      group(words.installed, tokens.filter((token) => !token.missing)),
      group(words.published, tokens.filter((token) => token.missing)),
    ].filter(Boolean);
    const filter = () => {
      const wanted = search.value.trim().toLowerCase();
      for (const [token, card] of cards) card.hidden = !`${token.title} ${token.name} ${token.family}`.toLowerCase().includes(wanted);
      for (const one of groups) one.hidden = ![...one.querySelectorAll(".partedit-card")].some((card) => !card.hidden);
    };
    const dialog = html(
      "dialog",
      { class: "partedit partedit-picker", "aria-label": words.chooseToken, "data-widget": "partedit_tokens" },
      html("div", { class: "partedit-bar" }, html("b", {}, words.chooseToken), html("span", { class: "partedit-grow" }), search, close),
      html("div", { class: "partedit-scroll" }, ...groups),
    );
    for (const kind of OWN_EVENTS) dialog.addEventListener(kind, (event) => event.stopPropagation());
    dialog.addEventListener("keydown", (event) => this.move(event));
    // A click on the dialog itself is one beside its content: on the page behind it.
    dialog.addEventListener("click", (event) => event.target === dialog && outside(event, dialog) && this.close());
    // By Escape. It may have been opened again by the time that "close" arrives.
    for (const kind of ["cancel", "close"]) dialog.addEventListener(kind, () => this.dialog === dialog && this.close());
    this.dialog = dialog;
    document.body.append(dialog);
    dialog.showModal();
    const chosen = dialog.querySelector('.partedit-pick[aria-pressed="true"]') ?? dialog.querySelector(".partedit-pick");
    (chosen ?? search).focus();
    chosen?.scrollIntoView?.({ block: "nearest" });
  }

  card(token, chosen) {
    const { words } = this;
    const label = [token.title, line(token, words), token.file || token.name].filter(Boolean).join(" · ");
    const pick = html(
      "button",
      { type: "button", class: "partedit-pick", "aria-pressed": String(chosen), "aria-label": label, "data-token": token.name, click: () => this.choose(token.name) },
      thumbnail(token),
      html("span", { class: "partedit-about" }, html("b", {}, token.title), html("span", {}, line(token, words)), html("span", { class: "partedit-file", title: token.name }, token.file || token.name)),
    );
    const more = token.missing
      ? html(
          "div",
          { class: "partedit-more" },
          html("span", {}, words.putInto(token.file, token.folder)),
          html("span", {}, words.licence, token.licence),
          token.remark ? html("span", {}, token.remark) : null,
          link(token, words),
        )
      : null;
    return html("div", { class: "partedit-card" }, pick, more);
  }

  choose(name) {
    const widget = settable(this.node, INPUT);
    this.close();
    if (widget) setValue(this.node, widget, name);
    this.paint();
    this.button?.focus?.();
  }

  /** Arrow keys go from token to token; Enter, Space and Escape are the browser's own. */
  move(event) {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    const search = event.target?.type === "search";
    if (!(event.key in steps) || (search && event.key !== "ArrowDown")) return;
    const shown = [...this.dialog.querySelectorAll(".partedit-pick")].filter((pick) => pick.checkVisibility?.() ?? true);
    if (!shown.length) return;
    event.preventDefault();
    const at = shown.indexOf(document.activeElement);
    shown[(at + steps[event.key] + shown.length) % shown.length].focus();
  }
}

function outside(event, dialog) {
  const { left, right, top, bottom } = dialog.getBoundingClientRect();
  return event.clientX < left || event.clientX > right || event.clientY < top || event.clientY > bottom;
}

/** Adds the widget to a Load Part Token. */
export function addTokenPicker(node) {
  return new TokenPicker(node);
}
