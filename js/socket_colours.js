// One colour for each of the pack's socket types, on the canvas and in Nodes 2.0, in every colour palette.

import { app } from "../../scripts/app.js";

const COLOURS = {
  PART_TOKEN: "#e8a33d",
  EDIT_PROMPT: "#5fb878",
  TRAJECTORY: "#6a8dff",
  EDITING_PAIR: "#d46bb0",
  STEP_SEARCH: "#35b3c4",
  CLIP_SCORER: "#c7b446",
  OIR_SAM_MODEL: "#a07be0",
  OIR_GROUNDING_MODEL: "#7fa05a",
};

/** The canvas: every palette that is chosen sets the colours of all types anew, and those it does not name to none. */
function colourCanvas() {
  const canvas = app.canvas;
  const tables = [canvas?.default_connection_color_byType, canvas?.constructor?.link_type_colors];
  for (const table of tables) {
    if (!table) continue;
    for (const [type, colour] of Object.entries(COLOURS)) table[type] ||= colour;
  }
  canvas?.setDirty?.(true, true);
}

/** Nodes 2.0 reads a property for each type. In a style sheet, because a palette removes it from the page's own style. */
function colourPage() {
  const sheet = document.createElement("style");
  const lines = Object.entries(COLOURS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`);
  sheet.textContent = `:root { ${lines.join(" ")} }`;
  document.head.append(sheet);
}

app.registerExtension({
  name: "PartEditOIR.socketColours",
  // The first palette may be loaded after setup, but before a workflow is.
  afterConfigureGraph: colourCanvas,
  setup() {
    colourPage();
    colourCanvas();
    // A palette is loaded some time after the setting has changed. It sets the page's own style along with the canvas.
    new MutationObserver(colourCanvas).observe(document.documentElement, { attributeFilter: ["style"] });
  },
});
