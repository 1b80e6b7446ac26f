// The steps set by hand in the input "overrides": one entry per pair, "24, auto"; empty for none.

/** For each pair the step set by hand, or null; as the node reads it. */
export function readSteps(text, pairs) {
  const none = Array(pairs).fill(null);
  const entries = String(text ?? "").trim().replaceAll(";", ",").split(",").map((entry) => entry.trim().toLowerCase());
  if (entries.length !== pairs) return none;
  return entries.map((entry) => (/^\d+$/.test(entry) ? Number(entry) : null));
}

/** The same as a text; empty if no step is set. */
export function writeSteps(steps) {
  return steps.every((step) => step === null) ? "" : steps.map((step) => step ?? "auto").join(", ");
}
