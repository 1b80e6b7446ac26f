// What the pack asks of ComfyUI's page: its own nodes, their outputs, messages of the server, files it shows.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

export { app, api };

// This file is served from /extensions/<folder of the pack>/, and the server names that folder with every node.
const OWN_NODES = `custom_nodes.${decodeURIComponent(import.meta.url.split("/extensions/")[1]?.split("/")[0] ?? "")}`;
const surfaces = new Map();

/** Whether a node is one of this pack. */
export function isOwn(node) {
  return isOwnDefinition(node?.constructor?.nodeData);
}

/** Whether a definition, as the server sends it, is that of a node of this pack. */
export function isOwnDefinition(definition) {
  return definition?.python_module === OWN_NODES;
}

/** The address of a file in ComfyUI's folders, from {filename, subfolder, type}; null for anything else. */
export function viewUrl(file) {
  if (typeof file?.filename !== "string") return null;
  const query = new URLSearchParams({ filename: file.filename, subfolder: String(file.subfolder ?? ""), type: String(file.type ?? "temp") });
  return api.apiURL(`/view?${query}`);
}

/** The node that an execution id names: "12", or "5:12" for node 12 inside the subgraph node 5. */
export function findNode(id) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const part of String(id ?? "").split(":")) {
    node = graph?.getNodeById?.(Number(part)) ?? graph?.getNodeById?.(part) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/** The widget of an input, null if another node's output is connected to it instead. */
export function settable(node, name) {
  const linked = node.inputs?.some((input) => input.widget?.name === name && input.link !== null && input.link !== undefined);
  return linked ? null : (node.widgets?.find((widget) => widget.name === name) ?? null);
}

/** Give a widget a value as if it had been typed. */
export function setValue(node, widget, value) {
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  node.setDirtyCanvas?.(true, true);
}

function guarded(surface, name, ...values) {
  try {
    surface[name]?.(...values);
  } catch (error) {
    console.warn("PartEdit: a widget could not show what it was sent:", error);
  }
}

/** What ComfyUI still knows of the outputs of a node, after a reload of the graph or a change of tabs. */
function remembered(node, outputs) {
  const root = app.rootGraph ?? app.graph;
  const inside = node.graph && node.graph !== root ? `${node.graph.id}:${node.id}` : String(node.id);
  return outputs?.[inside];
}

/**
 * Tells a widget what happens to its node.
 *
 * surface.live(message): from the server, while the node runs; surface.executed(output): it has run, or its outputs
 * were restored; surface.stopped(prompt): that run ended early; surface.connection(there): the server went or came back.
 */
export function connect(node, surface) {
  const { onAdded, onExecuted, onRemoved } = node;
  // Not yet: the editor also makes nodes that never come into a graph.
  node.onAdded = function (...values) {
    surfaces.set(node, surface);
    return onAdded?.apply(this, values);
  };
  node.onExecuted = function (output, ...more) {
    const result = onExecuted?.call(this, output, ...more);
    if (output) guarded(surface, "executed", output);
    return result;
  };
  node.onRemoved = function (...values) {
    surfaces.delete(node);
    guarded(surface, "removed");
    return onRemoved?.apply(this, values);
  };
}

/** Hooks of the extension that bring back what widgets showed. */
export const restoring = {
  loadedGraphNode(node) {
    const surface = surfaces.get(node);
    const output = surface && remembered(node, app.nodeOutputs);
    if (output) guarded(surface, "executed", output);
  },
  onNodeOutputsUpdated(outputs) {
    for (const [node, surface] of surfaces) {
      const output = remembered(node, outputs);
      if (output) guarded(surface, "executed", output);
    }
  },
};

/** Tells all widgets in graphs. */
export function everyone(name, ...values) {
  surfaces.forEach((surface) => guarded(surface, name, ...values));
}

/** Start to listen; once. */
export function listen() {
  api.addEventListener("partedit.live", ({ detail }) => {
    const node = detail && typeof detail === "object" ? findNode(detail.node) : null;
    const surface = node && surfaces.get(node);
    if (surface) guarded(surface, "live", detail);
  });
  for (const kind of ["execution_interrupted", "execution_error"]) api.addEventListener(kind, ({ detail }) => everyone("stopped", detail?.prompt_id));
  api.addEventListener("reconnecting", () => everyone("connection", false));
  api.addEventListener("reconnected", () => everyone("connection", true));
}
