// Images of the model's size on canvases.

/** A black canvas. */
export function blank(width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, width, height);
  return canvas;
}

export function copy(source) {
  const canvas = blank(source.width, source.height);
  canvas.getContext("2d").drawImage(source, 0, 0);
  return canvas;
}

export const toPng = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

export const pixelsOf = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);

/** Draw an image file or an element over the whole canvas, which keeps its size. */
export async function drawBlob(canvas, blob) {
  const bitmap = await createImageBitmap(blob);
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

/**
 * A picked file at the model's size, with dark and light swapped if wanted.
 *
 * `fit` is that of the model's preparation: `crop` keeps the middle, `pad` fills the rest with black, and `stretch`
 * changes the aspect ratio, as `resize=true` does.
 */
export async function fromFile(file, { width, height, channels }, invert, fit) {
  const bitmap = await createImageBitmap(file);
  const canvas = blank(width, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const source = halved(bitmap, width, height);
  const scales = [width / source.width, height / source.height];
  const scale = fit === "crop" ? Math.max(...scales) : Math.min(...scales);
  const [w, h] = fit === "stretch" ? [width, height] : [scale * source.width, scale * source.height];
  context.fillStyle = invert ? "#fff" : "#000"; // black once it is swapped
  context.fillRect(0, 0, width, height);
  context.drawImage(source, (width - w) / 2, (height - h) / 2, w, h);
  bitmap.close();
  map(canvas, (pixel) => {
    if (channels === 1) pixel.fill(Math.round(0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]), 0, 3);
    if (invert) for (let c = 0; c < 3; c++) pixel[c] = 255 - pixel[c];
  });
  return canvas;
}

/** Halve a large image until it is less than twice the size, so that no pixel is skipped. */
function halved(bitmap, width, height) {
  let source = bitmap;
  while (source.width >= 2 * width && source.height >= 2 * height) {
    const next = blank(source.width >> 1, source.height >> 1);
    next.getContext("2d").drawImage(source, 0, 0, next.width, next.height);
    source = next;
  }
  return source;
}

function map(canvas, change) {
  const data = pixelsOf(canvas);
  for (let start = 0; start < data.data.length; start += 4) change(data.data.subarray(start, start + 4));
  canvas.getContext("2d").putImageData(data, 0, 0);
}

/** True if most of the border is light: such an image is probably dark ink on a light ground. */
export function hasLightGround(canvas) {
  const { data, width, height } = pixelsOf(canvas);
  let light = 0, count = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (x && y && x < width - 1 && y < height - 1) continue;
      count++;
      if (data[4 * (y * width + x)] > 127) light++;
    }
  }
  return light > 0.7 * count;
}

export function isBlank(canvas) {
  return !pixelsOf(canvas).data.some((value, index) => index % 4 < 3 && value > 8);
}

/** A drawing fitted to 20/28 of the canvas and centred by its mass, as the digits of MNIST were. */
export function centred(source) {
  const { data, width, height } = pixelsOf(source);
  let left = width, top = height, right = -1, bottom = -1;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[4 * (y * width + x)] <= 8) continue;
      left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
    }
  }
  if (right < 0) return copy(source);
  const [boxWidth, boxHeight] = [right - left + 1, bottom - top + 1];
  const scale = Math.min((width * 20) / 28 / boxWidth, (height * 20) / 28 / boxHeight);
  const fitted = blank(width, height);
  const context = fitted.getContext("2d");
  context.imageSmoothingQuality = "high";
  const [w, h] = [boxWidth * scale, boxHeight * scale];
  context.drawImage(source, left, top, boxWidth, boxHeight, (width - w) / 2, (height - h) / 2, w, h);
  const { data: levels } = pixelsOf(fitted);
  let mass = 0, sumX = 0, sumY = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const level = levels[4 * (y * width + x)];
      mass += level; sumX += level * x; sumY += level * y;
    }
  }
  const result = blank(width, height);
  result.getContext("2d").drawImage(
    fitted, Math.round((width - 1) / 2 - sumX / mass), Math.round((height - 1) / 2 - sumY / mass));
  return result;
}

/** The drawing as a binary model sees it: white from a level of 128. */
export function thresholded(source) {
  const canvas = copy(source);
  map(canvas, (pixel) => {
    for (let c = 0; c < 3; c++) pixel[c] = pixel[c] >= 128 ? 255 : 0;
  });
  return canvas;
}

/** Heat, a gray image, in red over an image. */
export function overHeat(target, image, heat) {
  const [ground, levels] = [pixelsOf(image), pixelsOf(heat)];
  for (let i = 0; i < ground.data.length; i += 4) {
    const share = levels.data[i] / 255;
    ground.data[i] = (1 - share) * 0.8 * ground.data[i] + share * 255;
    ground.data[i + 1] = (1 - share) * 0.8 * ground.data[i + 1] + share * 56;
    ground.data[i + 2] = (1 - share) * 0.8 * ground.data[i + 2] + share * 40;
  }
  Object.assign(target, { width: image.width, height: image.height });
  target.getContext("2d").putImageData(ground, 0, 0);
}

/** Values in [0, 1], nested as (C, H, W), on a canvas. */
export function fromValues(values, canvas = document.createElement("canvas")) {
  const [red, green = red, blue = red] = values;
  const [height, width] = [red.length, red[0].length];
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i += 4) {
      image.data[i] = 256 * red[y][x];
      image.data[i + 1] = 256 * green[y][x];
      image.data[i + 2] = 256 * blue[y][x];
      image.data[i + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
