// A mask drawn over an image on a canvas, and an image compared with another.

// Outside the mask the image is dimmed, its soft edge is tinted, the part itself keeps its colours inside a line.
const OUTSIDE = [0, 0, 0, 140];
const SOFT = [255, 176, 32, 130];
const LINE = [30, 200, 255, 255];
const AROUND = [[-1, 0], [1, 0], [0, -1], [0, 1], [-1, -1], [-1, 1], [1, -1], [1, 1]];

/** Part of a picture in an off-screen canvas. */
function cut(image, x, y, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, width);
  canvas.height = Math.max(1, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(image, x, y, width, height, 0, 0, width, height);
  return canvas;
}

/** Tile number `column` of `count` that lie side by side. */
export function tile(image, column, count) {
  const width = Math.floor(image.naturalWidth / Math.max(1, count));
  return cut(image, column * width, 0, width, image.naturalHeight);
}

/** The mask in a row and column of a sheet of masks, each [width, height]. */
export function sheetTile(image, row, column, [width, height]) {
  return cut(image, column * width, row * height, width, height);
}

/** A canvas of the mask's size whose pixels `colour` gives for each value 0 … 255. */
function coloured(mask, colour) {
  const pixels = mask.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, mask.width, mask.height);
  for (let at = 0; at < pixels.data.length; at += 4) pixels.data.set(colour(pixels.data[at]), at);
  const canvas = document.createElement("canvas");
  canvas.width = mask.width;
  canvas.height = mask.height;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** A line around all that is not outside, as wide on every image. */
function outline(mask, width, height) {
  const inside = coloured(mask, (value) => (value ? LINE : [0, 0, 0, 0]));
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d");
  const by = Math.max(1.5, width / 256);
  for (const [x, y] of AROUND) pen.drawImage(inside, x * by, y * by, width, height);
  pen.globalCompositeOperation = "destination-out";
  pen.drawImage(inside, 0, 0, width, height);
  return canvas;
}

const sizeOf = (image) => [image.naturalWidth || image.width, image.naturalHeight || image.height];

function prepare(canvas, base) {
  const [width, height] = sizeOf(base);
  const scale = Math.max(1, Math.ceil(384 / Math.max(width, height, 1)));
  if (canvas.width !== width * scale || canvas.height !== height * scale) {
    canvas.width = width * scale;
    canvas.height = height * scale;
  }
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = true;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  return pen;
}

/** Draws an image and a mask over it; either may be missing. */
export function drawMask(canvas, image, mask) {
  if (!image && !mask) return;
  const pen = prepare(canvas, image ?? mask);
  if (image) pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  else {
    pen.fillStyle = "#555";
    pen.fillRect(0, 0, canvas.width, canvas.height);
  }
  if (!mask) return;
  const tint = coloured(mask, (value) => (value === 0 ? OUTSIDE : value < 254 ? SOFT : [0, 0, 0, 0]));
  pen.drawImage(tint, 0, 0, canvas.width, canvas.height);
  pen.drawImage(outline(mask, canvas.width, canvas.height), 0, 0);
}

/** A text on a dark plate in the lower corner of a side, cut off where the side ends. */
function label(pen, text, left, right, corner) {
  const { width, height } = pen.canvas;
  const size = Math.max(12, Math.round(width / 24));
  const gap = Math.round(size / 2);
  pen.save();
  pen.beginPath();
  pen.rect(left, 0, right - left, height);
  pen.clip();
  pen.font = `600 ${size}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  const wide = pen.measureText(text).width + 2 * gap;
  const x = corner === "left" ? gap : width - gap - wide;
  const y = height - gap - 1.6 * size;
  pen.fillStyle = "rgb(0 0 0 / 65%)";
  pen.beginPath();
  pen.roundRect(x, y, wide, 1.6 * size, gap / 2);
  pen.fill();
  pen.fillStyle = "#fff";
  pen.fillText(text, x + gap, y + 0.85 * size);
  pen.restore();
}

/** Draws `before` on the left of the divider and `after` on its right; share is 0 … 1 of the width, labels are two. */
export function drawCompared(canvas, before, after, share, labels) {
  if (!before || !after) return drawMask(canvas, after ?? before, null);
  const pen = prepare(canvas, after);
  const { width, height } = canvas;
  const at = Math.round(width * share);
  pen.drawImage(after, 0, 0, width, height);
  pen.save();
  pen.beginPath();
  pen.rect(0, 0, at, height);
  pen.clip();
  pen.drawImage(before, 0, 0, width, height);
  pen.restore();
  label(pen, labels[0], 0, at, "left");
  label(pen, labels[1], at, width, "right");
  const line = Math.max(2, Math.round(width / 250));
  pen.fillStyle = "#fff";
  pen.shadowColor = "#000";
  pen.shadowBlur = line * 2;
  pen.fillRect(at - line / 2, 0, line, height);
  pen.beginPath();
  pen.arc(at, height / 2, line * 4, 0, 2 * Math.PI);
  pen.fill();
  pen.shadowBlur = 0;
}

/** Where a pointer is across a canvas that shows its picture whole and centred, 0 … 1. */
export function shareAt(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const scale = Math.min(box.width / canvas.width, box.height / canvas.height) || 1;
  const shown = canvas.width * scale;
  const left = box.left + (box.width - shown) / 2;
  return Math.min(1, Math.max(0, (event.clientX - left) / (shown || 1)));
}
