// What the pack asks of ComfyUI's page: its own nodes, their outputs, messages of the server, files it shows.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

export { app, api };

// This file is served from /extensions/<folder of the pack>/, and the server names that folder with every node.
const OWN_NODES = `custom_nodes.${decodeURIComponent(import.meta.url.split("/extensions/")[1]?.split("/")[0] ?? "")}`;
const surfaces = new Map();
// The last output of a node that its widget was given.
const given = new WeakMap();
// Which workflow a prompt was queued from. Messages name nodes by their ids, and the workflow in front may have the same.
const queuedFrom = new Map();
let running = null;
const ENDED_EARLY = ["execution_interrupted", "execution_error"];

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

/**
 * Give a widget a value as if it had been typed.
 *
 * Undo takes it back: the editor looks for changes when a button of the mouse is released, which is before the click.
 * One of several values while something is dragged is `passing`, and none of undo's steps.
 */
export function setValue(node, widget, value, passing = false) {
  if (!passing) app.canvas?.emitBeforeChange?.();
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  node.setDirtyCanvas?.(true, true);
  if (!passing) app.canvas?.emitAfterChange?.();
}

function guarded(surface, name, ...values) {
  try {
    surface[name]?.(...values);
  } catch (error) {
    console.warn("PartEdit: a widget could not show what it was sent:", error);
  }
}

/** The name under which ComfyUI keeps the outputs of a node. */
function place(node) {
  const root = app.rootGraph ?? app.graph;
  return node.graph && node.graph !== root ? `${node.graph.id}:${node.id}` : String(node.id);
}

function give(node, surface, output) {
  if (!output) return;
  given.set(node, output);
  guarded(surface, "executed", output);
}

const inFront = () => app.extensionManager?.workflow?.activeWorkflow ?? null;

/** Whether a prompt was queued in this page, and from a workflow that is not in front. */
function elsewhere(prompt) {
  const workflow = queuedFrom.get(prompt);
  return workflow !== undefined && workflow.deref() !== inFront();
}

/** Remembers which workflow each prompt is queued from. */
function followQueue() {
  const { queuePrompt } = api;
  api.queuePrompt = function (...values) {
    const workflow = inFront();
    const answer = queuePrompt.apply(this, values);
    // Not awaited: this file would be named in the trace of every prompt that ComfyUI refuses.
    answer?.then?.(
      (queued) => workflow && queued?.prompt_id && queuedFrom.set(queued.prompt_id, new WeakRef(workflow)),
      () => {},
    );
    return answer;
  };
  api.addEventListener("execution_start", ({ detail }) => (running = detail?.prompt_id ?? null));
  for (const kind of ["execution_success", ...ENDED_EARLY]) api.addEventListener(kind, () => (running = null));
  // ComfyUI files an output under the node of that id in the workflow in front, whichever it is of.
  api.addEventListener("executed", ({ detail }) => {
    const node = elsewhere(detail?.prompt_id) ? findNode(detail.display_node ?? detail.node) : null;
    if (!surfaces.has(node)) return;
    if (given.has(node)) app.nodeOutputs[place(node)] = given.get(node);
    else delete app.nodeOutputs[place(node)];
  });
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
    if (!elsewhere(running)) give(this, surface, output);
    return result;
  };
  node.onRemoved = function (...values) {
    surfaces.delete(node);
    guarded(surface, "removed");
    return onRemoved?.apply(this, values);
  };
}

/** Whether a node is in the workflow in front. Those inside subgraphs are not reported as removed when it is closed. */
function present(node) {
  const root = app.rootGraph ?? app.graph;
  return Boolean(node.graph) && (node.graph === root || root?.subgraphs?.get?.(node.graph.id) === node.graph);
}

/** Hooks of the extension that bring back what widgets showed, and forget those of a workflow that was closed. */
export const restoring = {
  afterConfigureGraph() {
    for (const [node, surface] of surfaces) {
      if (present(node)) continue;
      surfaces.delete(node);
      guarded(surface, "removed");
    }
  },
  loadedGraphNode(node) {
    if (surfaces.has(node)) give(node, surfaces.get(node), app.nodeOutputs?.[place(node)]);
  },
  onNodeOutputsUpdated(outputs) {
    for (const [node, surface] of surfaces) give(node, surface, outputs?.[place(node)]);
  },
};

/** Tells all widgets in graphs. */
export function everyone(name, ...values) {
  surfaces.forEach((surface) => guarded(surface, name, ...values));
}

/** Start to listen; once. */
export function listen() {
  followQueue();
  api.addEventListener("partedit.live", ({ detail }) => {
    const node = detail && typeof detail === "object" && !elsewhere(detail.prompt_id) ? findNode(detail.node) : null;
    const surface = node && surfaces.get(node);
    if (surface) guarded(surface, "live", detail);
  });
  for (const kind of ENDED_EARLY) api.addEventListener(kind, ({ detail }) => everyone("stopped", detail?.prompt_id));
  api.addEventListener("reconnecting", () => everyone("connection", false));
  api.addEventListener("reconnected", () => everyone("connection", true));
}
