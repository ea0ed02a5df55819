// The top layer of latents in two dimensions: prototypes, calibration images, and the user's own.

import { Latest, getJson, isAbort, postBlob, postJson } from "./api.js";
import { codeButton } from "./code.js";
import { announce, h, segments } from "./dom.js";
import { Sheet, picture, report } from "./figures.js";
import { blank, drawBlob, toPng } from "./pixels.js";
import { linkTo, mine, modelQuery, models, reference, shape } from "./state.js";

const GRID = 6; // images on a side of the sample of a rectangle
const HUES = ["#4e79d6", "#e07b39", "#3d9a56", "#d1495b", "#8a6fc8", "#9b6a4c", "#d56fae", "#7d858c", "#b0a030", "#35a3b5"];

export function mapView(root) {
  const decoding = new Latest(), sampling = new Latest();
  const canvas = h("canvas", { className: "map", tabIndex: 0, role: "application", "aria-roledescription": "map",
    "aria-label": "Map of the latent space. Arrow keys move the cross, plus and minus zoom, Enter decodes, S samples around the cross." });
  const context = canvas.getContext("2d");
  const tip = picture("Here");
  const where = h("p", { className: "note" }, "Point at a place, tap it, or use the arrow keys.");
  const samples = h("canvas", { className: "pixels sheet", role: "img", "aria-label": "Images of the selected rectangle", hidden: true });
  const sampleNote = h("p", { className: "note" }, "Select a rectangle to decode places all over it.");
  const trouble = h("div");
  const tool = segments("Tool", [["move", "Move"], ["select", "Select"]], "move");
  const colour = segments("Colour of the dots", [["label", "Label"], ["novelty", "Novelty"]], "label", () => draw());
  const legend = h("div", { className: "legend" });
  let data = null, sheet = null, bitmap = null, size = 1, pin = null, drag = null, box = null, frame = 0;
  let view = { x: 0, y: 0, zoom: 1 }; // centre in the plane, CSS pixels per unit
  let cross = null, hovered = null;
  const pointers = new Map();

  const isBinary = models.current.architecture.likelihood === "bernoulli" && shape().channels === 1;
  const latent = ([x, y]) => data.mean.map((value, index) => value + x * data.components[0][index] + y * data.components[1][index]);
  const code = codeButton("this place", () => ({
    method: "POST", path: "decode", query: { model: modelQuery(), scale: 8 }, json: { latents: { [data.layer]: [latent(hovered ?? [0, 0])] } }, output: "decoded.png",
  }));
  const side = h("aside", { className: "panel detail", "aria-label": "The chosen place" },
    h("div", { className: "panel-head" }, h("h2", null, "This place"), code), tip.element, where,
    h("h3", null, "A rectangle"), sampleNote, samples);
  const zoomBy = (factor) => { view.zoom *= factor; draw(); };
  root.replaceChildren(h("div", { className: "split map-view" }, h("section", { className: "map-panel", "aria-label": "Map" },
    h("div", { className: "toolbar" }, tool, h("span", { className: "spring" }), colour,
      h("div", { className: "segments", role: "group", "aria-label": "Zoom" },
        h("button", { type: "button", "aria-label": "Zoom out", onclick: () => zoomBy(1 / 1.5) }, "−"),
        h("button", { type: "button", "aria-label": "Zoom in", onclick: () => zoomBy(1.5) }, "+"),
        h("button", { type: "button", onclick: () => { fit(); draw(); } }, "Fit"))),
    trouble, h("div", { className: "map-frame" }, canvas), legend), side));

  const resizer = new ResizeObserver(() => {
    const first = canvas.width === 300;
    canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
    canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
    if (data && first) fit();
    draw();
  });
  resizer.observe(canvas);
  load();

  async function load() {
    where.textContent = "Loading the map…";
    try {
      data = await getJson(`models/${reference(models.current)}/map`);
      if (!data.labels) { colour.choose("novelty"); colour.hidden = true; }
      trouble.replaceChildren();
      where.textContent = "Point at a place, tap it, or use the arrow keys.";
      fit();
      draw();
      sheet = Sheet.of("decoded");
      ({ bitmap, size } = await sheet.page(0));
      draw();
      if (mine.canvas) await placePin();
    } catch (error) {
      report(trouble, error, load);
      where.textContent = "";
    }
  }

  async function placePin() {
    const answer = await postJson("encode", { query: { model: modelQuery() }, files: await toPng(mine.canvas) });
    const centred = answer.results[0].posterior[data.layer].mean.map((value, index) => value - data.mean[index]);
    pin = data.components.map((row) => row.reduce((sum, value, index) => sum + value * centred[index], 0));
    draw();
  }

  function fit() {
    const all = [...data.points, ...data.prototypes];
    const range = [0, 1].map((axis) => {
      const values = all.map((point) => point[axis]).sort((a, b) => a - b);
      return [values[Math.floor(values.length * 0.005)], values[Math.ceil(values.length * 0.995) - 1]];
    });
    view = {
      x: (range[0][0] + range[0][1]) / 2, y: (range[1][0] + range[1][1]) / 2,
      zoom: 0.92 * Math.min(canvas.clientWidth / (range[0][1] - range[0][0] || 1), canvas.clientHeight / (range[1][1] - range[1][0] || 1)),
    };
    cross = [view.x, view.y];
  }

  const toScreen = ([x, y]) => [canvas.clientWidth / 2 + (x - view.x) * view.zoom, canvas.clientHeight / 2 - (y - view.y) * view.zoom];
  const toPlane = (x, y) => [view.x + (x - canvas.clientWidth / 2) / view.zoom, view.y - (y - canvas.clientHeight / 2) / view.zoom];

  function draw() {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(paint);
  }

  function paint() {
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    if (!data) return;
    const style = colours();
    const byLabel = data.labels !== null && colour.value === "label";
    const radius = Math.min(4, 1.6 + view.zoom / 40);
    context.globalAlpha = 0.75;
    data.points.forEach((point, index) => {
      const [x, y] = toScreen(point);
      if (x < -5 || y < -5 || x > canvas.clientWidth + 5 || y > canvas.clientHeight + 5) return;
      context.fillStyle = byLabel ? hue(data.labels[index]) : shade(data.p_values[index]);
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    });
    context.globalAlpha = 1;
    if (bitmap) paintPrototypes(style);
    if (pin) paintPin(style);
    if (box) {
      context.strokeStyle = style.accent;
      context.lineWidth = 2;
      context.setLineDash([6, 4]);
      context.strokeRect(...box);
      context.setLineDash([]);
    }
    if (cross && document.activeElement === canvas) {
      const [x, y] = toScreen(cross);
      context.strokeStyle = style.ink;
      context.lineWidth = 1.5;
      context.beginPath();
      context.moveTo(x - 9, y); context.lineTo(x + 9, y); context.moveTo(x, y - 9); context.lineTo(x, y + 9);
      context.stroke();
    }
    paintLegend(byLabel);
  }

  /** Thumbnails of the prototypes, those that do not cover an earlier one; more of them appear as one zooms in. */
  function paintPrototypes(style) {
    const { width, height } = shape();
    const scale = Math.max(width, height) > 40 ? 32 / Math.max(width, height) : Math.max(1, Math.round(24 / Math.max(width, height)));
    const [w, h2] = [width * scale, height * scale];
    const sprites = isBinary ? inked(style.ink) : bitmap;
    const taken = [];
    context.imageSmoothingEnabled = scale < 1;
    context.strokeStyle = style.line;
    context.lineWidth = 1;
    data.prototypes.slice(0, size).forEach((place, index) => {
      const [x, y] = toScreen(place);
      if (x < -w || y < -h2 || x > canvas.clientWidth + w || y > canvas.clientHeight + h2) return;
      if (taken.some(([otherX, otherY]) => Math.abs(x - otherX) < w + 2 && Math.abs(y - otherY) < h2 + 2)) return;
      taken.push([x, y]);
      const [left, top] = [Math.round(x - w / 2), Math.round(y - h2 / 2)];
      context.globalAlpha = 0.85;
      context.fillStyle = style.surface;
      context.fillRect(left, top, w, h2);
      context.globalAlpha = 1;
      context.drawImage(sprites, ...sheet.place(index, size), width, height, left, top, w, h2);
      context.strokeRect(left - 0.5, top - 0.5, w + 1, h2 + 1);
    });
    context.imageSmoothingEnabled = true;
  }

  /** The contact sheet as ink on paper, since black squares would hide the dots; for black-and-white models. */
  let inkedFor = null, inkedSheet = null;
  function inked(colour) {
    if (inkedFor === colour) return inkedSheet;
    inkedFor = colour;
    inkedSheet = blank(bitmap.width, bitmap.height);
    const target = inkedSheet.getContext("2d");
    target.drawImage(bitmap, 0, 0);
    const image = target.getImageData(0, 0, bitmap.width, bitmap.height);
    const [red, green, blue] = colour.match(/[\d.]+/g).map(Number);
    for (let i = 0; i < image.data.length; i += 4) image.data.set([red, green, blue, image.data[i]], i);
    target.putImageData(image, 0, 0);
    return inkedSheet;
  }

  /** Colours of the theme, as the browser resolves them. */
  function colours() {
    const style = getComputedStyle(canvas);
    return { ink: style.color, surface: style.backgroundColor, line: style.borderTopColor, heat: style.caretColor, accent: style.columnRuleColor };
  }

  function paintPin(style) {
    const [x, y] = toScreen(pin);
    context.fillStyle = style.heat;
    context.strokeStyle = style.surface;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x, y - 15, 9, 0.75 * Math.PI, 0.25 * Math.PI);
    context.lineTo(x, y);
    context.closePath();
    context.fill();
    context.stroke();
    const ratio = mine.canvas.height / mine.canvas.width;
    context.imageSmoothingEnabled = false;
    context.drawImage(mine.canvas, x + 12, y - 40, 42, 42 * ratio);
    context.strokeStyle = style.heat;
    context.strokeRect(x + 12, y - 40, 42, 42 * ratio);
  }

  let legendFor;
  function paintLegend(byLabel) {
    if (legendFor === byLabel) return;
    legendFor = byLabel;
    const dot = (fill, text) => h("span", { className: "key" }, h("i", { style: { background: fill } }), text);
    const labels = [...new Set(data.labels ?? [])].filter((label) => label >= 0).sort((a, b) => a - b);
    const keys = byLabel ? (labels.length <= 12 ? labels.map((label) => dot(hue(label), label)) : [`${labels.length} labels`])
      : [dot(shade(0.9), "typical"), dot(shade(0.1), "p = 0.1"), ...(data.points.length >= 100 ? [dot(shade(0.001), "p below 0.01")] : [])];
    legend.replaceChildren(`${data.points.length.toLocaleString("en")} calibration images, ${data.prototypes.length} prototypes`, h("span", { className: "spring" }), ...keys);
  }

  // pointing, moving, selecting

  function point(place) {
    hovered = place;
    cross = place;
    show(place);
  }

  /** Show the image of a place; while one is being decoded, only the newest place waits. */
  let waiting = null, isDecoding = false;
  async function show(place) {
    waiting = place;
    if (isDecoding || !data) return;
    isDecoding = true;
    try {
      while (waiting) {
        const next = waiting;
        waiting = null;
        const blob = await decoding.run((signal) => postBlob("decode", {
          query: { model: modelQuery(), format: "png" }, json: { latents: { [data.layer]: [latent(next)] } }, signal,
        }));
        await drawBlob(tip.canvas, blob);
        tip.filled();
        where.textContent = `At (${next[0].toFixed(1)}, ${next[1].toFixed(1)}), nearest to `;
        const nearest = closest(next);
        where.append(h("a", { href: linkTo("prototypes", { k: nearest }) }, `prototype ${nearest}`), ".");
      }
      trouble.replaceChildren();
    } catch (error) {
      report(trouble, error);
    } finally {
      isDecoding = false;
    }
  }

  function closest(place) {
    const distance = ([x, y]) => (x - place[0]) ** 2 + (y - place[1]) ** 2;
    return data.prototypes.reduce((best, candidate, index, all) => (distance(candidate) < distance(all[best]) ? index : best), 0);
  }

  async function sample(from, to) {
    const latents = [];
    for (let row = 0; row < GRID; row++) {
      for (let column = 0; column < GRID; column++) {
        const at = (axis, share) => from[axis] + ((to[axis] - from[axis]) * (share + 0.5)) / GRID;
        latents.push(latent([at(0, column), at(1, row)]));
      }
    }
    sampleNote.textContent = "Decoding…";
    try {
      const blob = await sampling.run((signal) => postBlob("decode", {
        query: { model: modelQuery(), format: "png", columns: GRID }, json: { latents: { [data.layer]: latents } }, signal,
      }));
      await drawBlob(samples, blob);
      samples.hidden = false;
      sampleNote.textContent = `${GRID * GRID} places, spread evenly over the rectangle.`;
      announce(sampleNote.textContent);
    } catch (error) {
      if (!isAbort(error)) { sampleNote.textContent = ""; report(trouble, error); }
    }
  }

  const local = (event) => { const frameBox = canvas.getBoundingClientRect(); return [event.clientX - frameBox.left, event.clientY - frameBox.top]; };
  canvas.addEventListener("pointerdown", (event) => {
    if (!data) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, local(event));
    drag = { start: local(event), last: local(event), moved: false, select: tool.value === "select" || event.shiftKey };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!data) return;
    const place = local(event);
    if (!drag) return point(toPlane(...place));
    if (pointers.size === 2) return pinch(event.pointerId, place);
    if (Math.hypot(place[0] - drag.start[0], place[1] - drag.start[1]) > 4) drag.moved = true;
    if (drag.select) box = [drag.start[0], drag.start[1], place[0] - drag.start[0], place[1] - drag.start[1]];
    else if (drag.moved) { view.x -= (place[0] - drag.last[0]) / view.zoom; view.y += (place[1] - drag.last[1]) / view.zoom; }
    drag.last = place;
    draw();
  });
  function pinch(id, place) {
    const [a, b] = [...pointers.keys()];
    const other = pointers.get(id === a ? b : a);
    const before = Math.hypot(pointers.get(id)[0] - other[0], pointers.get(id)[1] - other[1]);
    const after = Math.hypot(place[0] - other[0], place[1] - other[1]);
    pointers.set(id, place);
    drag.moved = true;
    if (before > 0) zoomAt(after / before, (place[0] + other[0]) / 2, (place[1] + other[1]) / 2);
  }
  const up = (event) => {
    pointers.delete(event.pointerId);
    if (!drag || pointers.size) return;
    const { select, moved, start, last } = drag;
    drag = null;
    if (!moved) point(toPlane(...last));
    else if (select) sample(toPlane(...start), toPlane(...last));
    draw();
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  function zoomAt(factor, x, y) {
    const fixed = toPlane(x, y);
    view.zoom = Math.min(5000, Math.max(0.5, view.zoom * factor));
    const moved = toPlane(x, y);
    view.x += fixed[0] - moved[0];
    view.y += fixed[1] - moved[1];
    draw();
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (data) zoomAt(Math.exp(-event.deltaY / 400), ...local(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (!data || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    const reach = 60 / view.zoom;
    if (step) {
      cross = [cross[0] + (step[0] * 16) / view.zoom, cross[1] + (step[1] * 16) / view.zoom];
      const [x, y] = toScreen(cross);
      if (x < 0 || y < 0 || x > canvas.clientWidth || y > canvas.clientHeight) [view.x, view.y] = cross;
      point(cross);
    } else if (event.key === "+" || event.key === "=") zoomBy(1.5);
    else if (event.key === "-") zoomBy(1 / 1.5);
    else if (event.key === "Enter") point(cross);
    else if (event.key === "s") sample([cross[0] - reach, cross[1] + reach], [cross[0] + reach, cross[1] - reach]);
    else return;
    event.preventDefault();
    draw();
  });
  canvas.addEventListener("focus", draw);
  canvas.addEventListener("blur", draw);

  return () => { decoding.cancel(); sampling.cancel(); resizer.disconnect(); cancelAnimationFrame(frame); };
}

const hue = (label) => (label < 0 ? "#888" : label < HUES.length ? HUES[label] : `hsl(${(label * 137.5) % 360} 55% 52%)`);

/** Colour of a p-value: gray where an image is typical, red where it is unusual. */
function shade(p) {
  const unusual = Math.min(1, Math.max(0, -Math.log10(p) / 2.3));
  return `hsl(8 ${Math.round(85 * unusual)}% ${Math.round(58 - 6 * unusual)}%)`;
}
