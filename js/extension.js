// The pack's part of the editor: widgets that show nodes at work. See lib/ for what they share.

import { app, everyone, isOwn, isOwnDefinition, listen, restoring } from "./lib/host.js";
import { addMaskStrip } from "./widgets/mask_strip.js";
import { addReport } from "./widgets/report.js";
import { addStepBoard } from "./widgets/step_board.js";
import { addTokenPicker, learnTokens } from "./widgets/token_picker.js";
import { addTrainingBoard } from "./widgets/training_board.js";
import { addWordThreads } from "./widgets/word_threads.js";

// A node without a widget of its own shows the text and the curves that it reports.
const WIDGETS = {
  FeatureBlendSampler: addMaskStrip,
  InversionStepSearch: addStepBoard,
  LoadPartToken: addTokenPicker,
  PartEditPrompt: addWordThreads,
  TrainPartToken: addTrainingBoard,
};

app.registerExtension({
  name: "PartEditOIR.report",
  ...restoring,
  setup: listen,
  // When the page is loaded, and again whenever the editor refreshes its lists of files.
  beforeRegisterNodeDef(_, definition) {
    if (definition?.name === "LoadPartToken" && isOwnDefinition(definition)) learnTokens(definition);
  },
  refreshComboInNodes: () => everyone("listed"),
  nodeCreated(node) {
    if (isOwn(node)) (WIDGETS[node.comfyClass] ?? addReport)(node);
  },
});
