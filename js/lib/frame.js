// The place of a widget in a node: an element that the classic canvas and Nodes 2.0 lay out, never saved or sent.

import { addStyles, html } from "./dom.js";
import { texts } from "./texts.js";

// What the canvas below would take for itself: dragging the node, deleting it, moving the view.
const OWN_EVENTS = ["pointerdown", "pointermove", "pointerup", "mousedown", "dblclick", "keydown", "keyup", "contextmenu"];

/**
 * Adds a widget at the end of a node, a line high until it has something to show.
 *
 * Returns {element, open(height), fill(height, ...children), take(height)}: open makes it that high, and the node higher
 * if need be; the node never shrinks. fill opens it with these children in the place of the hint; they stay if they are
 * there. take makes it that high, or hides it at 0, and leaves the node as it is.
 */
export function addFrame(node, name, hint, idleHeight = 30) {
  addStyles();
  let height = idleHeight;
  const element = html("div", { class: "partedit", "data-widget": name }, hint ? html("div", { class: "partedit-hint" }, hint) : null);
  for (const kind of OWN_EVENTS) element.addEventListener(kind, (event) => event.stopPropagation());
  const widget = node.addDOMWidget(name, "partedit", element, {
    serialize: false,
    hideOnZoom: false,
    // The panel beside the graph lists what can be set.
    hideInPanel: true,
    getMinHeight: () => height,
    getValue: () => "",
  });
  widget.serialize = false;
  widget.label = texts().names[name];
  element.style.minHeight = `${height}px`;
  const take = (wanted) => {
    height = wanted;
    element.style.minHeight = `${height}px`;
    // On the canvas a hidden widget takes no room. Nodes 2.0 would not notice when it is shown again.
    widget.hidden = !height;
    element.style.display = height ? "" : "none";
  };
  const open = (wanted) => {
    if (wanted === height) return;
    take(wanted);
    const size = node.computeSize();
    node.setSize([Math.max(node.size[0], size[0]), Math.max(node.size[1], size[1])]);
    node.setDirtyCanvas?.(true, true);
  };
  const fill = (wanted, ...children) => {
    if (children[0].parentNode !== element) element.replaceChildren(...children);
    open(wanted);
  };
  return { element, open, fill, take };
}

/** Calls a function before the page is next drawn, however often it is asked. */
export function onceAFrame(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
}
