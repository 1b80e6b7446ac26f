// The pack's part of the editor: widgets that show nodes at work. See lib/ for what they share.

import { app, isOwn, listen, restoring } from "./lib/host.js";
import { addMaskStrip } from "./widgets/mask_strip.js";
import { addReport } from "./widgets/report.js";
import { addStepBoard } from "./widgets/step_board.js";
import { addTrainingBoard } from "./widgets/training_board.js";
import { addWordThreads } from "./widgets/word_threads.js";

// A node without a widget of its own shows the text and the curves that it reports.
const WIDGETS = {
  FeatureBlendSampler: addMaskStrip,
  InversionStepSearch: addStepBoard,
  PartEditPrompt: addWordThreads,
  TrainPartToken: addTrainingBoard,
};

app.registerExtension({
  name: "PartEditOIR.report",
  ...restoring,
  setup: listen,
  nodeCreated(node) {
    if (isOwn(node)) (WIDGETS[node.comfyClass] ?? addReport)(node);
  },
});
