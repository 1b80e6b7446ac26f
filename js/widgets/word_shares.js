// Shares of single words in the input "word_fractions": "robot=0.4, red hat=1".

/** The entries as [word, share]; what cannot be read stays as it is, with null as its share. */
function entries(text) {
  return String(text ?? "")
    .split(/[,\n]/)
    .map((entry) => entry.trim())
    .filter(Boolean)
    .map((entry) => {
      const at = entry.lastIndexOf("=");
      const share = at > 0 ? Number(entry.slice(at + 1)) : NaN;
      return Number.isFinite(share) ? [entry.slice(0, at).trim(), share] : [entry, null];
    });
}

const same = (one, other) => one.normalize("NFKC").toLowerCase() === other.normalize("NFKC").toLowerCase();

/** The share set for exactly this word, or null. */
export function shareOf(text, word) {
  return entries(text).find(([name, share]) => share !== null && same(name, word))?.[1] ?? null;
}

/** The text with the word's share set, or taken out with null. */
export function withShare(text, word, share) {
  const kept = entries(text).filter(([name]) => !same(name, word));
  if (share !== null) kept.push([word, share]);
  return kept.map(([name, value]) => (value === null ? name : `${name}=${value}`)).join(", ");
}

// Amber to blue on the way round by rose and violet: straight across, the middle would be grey. The lightness stands out
// from light and dark nodes alike.
const [FREE, FOLLOWING] = [70, -105];

/** The colour of a share: amber, free, to blue, following all the time; as light and as saturated in between. */
export function shareColour(share) {
  const hue = FREE + (FOLLOWING - FREE) * Math.min(1, Math.max(0, share));
  return `oklch(66% 0.16 ${Math.round((hue + 360) % 360)})`;
}

/** Whether a word can be named there. */
export function canBeSet(word) {
  return /[\p{L}\p{N}]/u.test(word) && !/[,=\n]/.test(word);
}
