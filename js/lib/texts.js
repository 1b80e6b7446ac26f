// The words on the widgets, in the editor's language.

import { app } from "./host.js";

const ENGLISH = {
  maskHint: "The mask of each step appears here while it samples.",
  searchHint: "The candidates appear here as they are made.",
  onEdit: "On edit",
  onSource: "On source",
  compare: "Before / after",
  compared: "left: source · right: edit",
  edit: "edited image",
  step: (step, steps) => `step ${step} of ${steps}`,
  sampling: (step, steps) => `sampling: step ${step} of ${steps}`,
  band: (low, level, high) => `soft ${low}–${high}, k ${level}`,
  stoppedAt: (step, steps) => `stopped at step ${step} of ${steps}`,
  stopped: "stopped",
  lost: "Connection lost. What arrived stays here.",
  gone: "The pictures are no longer in ComfyUI's temporary folder. Run again to see them.",
  noMask: "no mask yet",
  part: "part",
  soft: "soft edge",
  image: (number) => `image ${number}`,
  divider: "Divider between before and after",
  stage: "Mask over the image",
  scrub: "Step",
  pair: "Editing pair",
  candidates: "Candidates",
  reset: "Reset to found",
  run: "Run",
  searching: (count) => `searching: ${count} candidates so far`,
  scores: (n, total, edit, keep) => `step ${n}: S ${total} (S_e ${edit}, S_ne ${keep})`,
  found: "found",
  byHand: "set by hand",
  pending: "run to use it",
  linked: "overrides is connected to another node; set the step there.",
};

const CHINESE = {
  maskHint: "采样时,每一步的遮罩会显示在这里。",
  searchHint: "候选结果生成后会显示在这里。",
  onEdit: "叠加于编辑图",
  onSource: "叠加于原图",
  compare: "编辑前 / 后",
  compared: "左:原图 · 右:编辑图",
  edit: "编辑图",
  step: (step, steps) => `第 ${step} 步,共 ${steps} 步`,
  sampling: (step, steps) => `采样中:第 ${step} 步,共 ${steps} 步`,
  band: (low, level, high) => `柔和区间 ${low}–${high},k ${level}`,
  stoppedAt: (step, steps) => `已停在第 ${step} 步,共 ${steps} 步`,
  stopped: "已停止",
  lost: "连接已断开,已收到的内容保留在此。",
  gone: "图片已不在 ComfyUI 的临时文件夹中,请重新运行。",
  noMask: "尚无遮罩",
  part: "部位",
  soft: "柔和边缘",
  image: (number) => `图像 ${number}`,
  divider: "编辑前后的分界线",
  stage: "图像上的遮罩",
  scrub: "步",
  pair: "编辑对",
  candidates: "候选结果",
  reset: "恢复为搜索结果",
  run: "运行",
  searching: (count) => `搜索中:已有 ${count} 个候选`,
  scores: (n, total, edit, keep) => `第 ${n} 步:S ${total}(S_e ${edit},S_ne ${keep})`,
  found: "搜索所得",
  byHand: "手动指定",
  pending: "运行后生效",
  linked: "overrides 已连接到其他节点,请在那里设置步数。",
};

/** The words of the editor's language; English for those that are not translated. */
export function texts() {
  const language = String(app.ui?.settings?.getSettingValue?.("Comfy.Locale") ?? document.documentElement.lang ?? "en");
  return language.startsWith("zh") ? { ...ENGLISH, ...CHINESE } : ENGLISH;
}
