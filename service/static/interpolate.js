// Images along a path between two ends, and what single latent units do.

import { Latest, busy, postBlob, postJson } from "./api.js";
import { codeButton } from "./code.js";
import { h, numberField, s, save, segments, slider } from "./dom.js";
import { Sheet, picture, report, thumbnail } from "./figures.js";
import { blank, fromFile, fromValues, toPng } from "./pixels.js";
import { fit, layers, linkTo, mine, modelQuery, models, read, shape, write } from "./state.js";

const UNITS = 8; // sliders at once
const MOST_NUMBERS = 200_000; // pixels that are asked for as JSON; of larger paths a PNG shows the images alone
const GAP = 2; // pixels between the images of a contact sheet

export function interpolateView(root) {
  const latest = new Latest(), unitRequests = new Latest();
  const { num_components: count } = models.current.architecture;
  const random = () => Math.floor(Math.random() * count);
  const given = (name) => {
    const value = Number(read(name) ?? NaN);
    return Number.isInteger(value) && value >= 0 && value < count ? value : random();
  };
  const ends = [new End("Start", "from", given("from"), load), new End("End", "to", given("to"), load)];
  const kind = segments("Path", [["linear", "Line"], ["spherical", "Arc"]], read("path") === "spherical" ? "spherical" : "linear", load);
  const steps = slider("Steps", { min: 4, max: 64, value: 24, oninput: () => load() });
  const scrubber = h("input", { type: "range", min: 0, max: 23, value: "0", "aria-label": "Place on the path", oninput: () => showFrame() });
  const playButton = h("button", { type: "button", "aria-pressed": "false", onclick: () => play(!timer) }, "Play");
  const call = (more) => () => ({ method: "POST", path: "interpolate", query: query(more), files: ends.filter((end) => end.canvas).length, output: more.animate ? `path.${more.animate}` : "path.png" });
  const frame = picture("On the path", { call: call({ scale: 8, animate: "webp" }) });
  const strip = h("canvas", { className: "pixels strip", role: "img", "aria-label": "All images of the path" });
  const shares = s("svg", { class: "shares", preserveAspectRatio: "none", role: "img", "aria-label": "Responsibilities of prototypes along the path" });
  const legend = h("div", { className: "thumbs" });
  const trouble = h("div");
  let frames = [], components = [], timer = 0;

  const query = (more = {}) => ({
    model: modelQuery(), start: ends[0].canvas ? undefined : ends[0].number, end: ends[1].canvas ? undefined : ends[1].number,
    steps: steps.value, path: kind.value === "linear" ? undefined : kind.value, ...more,
  });
  const uploads = async () => {
    const canvases = ends.map((end) => end.canvas).filter(Boolean);
    const files = [];
    for (const canvas of canvases) files.push(new File([await toPng(canvas)], "image.png", { type: "image/png" }));
    return files.length ? files : undefined;
  };

  async function load() {
    write({ from: ends[0].canvas ? null : ends[0].number, to: ends[1].canvas ? null : ends[1].number, path: kind.value === "linear" ? null : kind.value });
    try {
      await busy("Computing the path", latest, async (signal) => {
        const { channels, height, width } = shape();
        if (channels * height * width * steps.value > MOST_NUMBERS) {
          frames = await slices(await postBlob("interpolate", { query: query({ format: "png" }), files: await uploads(), signal }));
          components = [];
          return;
        }
        const answer = await postJson("interpolate", { query: query({ format: "json" }), files: await uploads(), signal });
        frames = answer.images.map((values) => fromValues(values));
        components = answer.components;
      });
      trouble.replaceChildren();
      scrubber.max = String(frames.length - 1);
      frame.filled();
      drawStrip();
      drawShares();
      showFrame();
      if (!units.started) units.load();
    } catch (error) {
      report(trouble, error, load);
    }
  }

  function showFrame() {
    const canvas = frames[Number(scrubber.value)];
    if (!canvas) return;
    frame.canvas.width = canvas.width;
    frame.canvas.height = canvas.height;
    frame.canvas.getContext("2d").drawImage(canvas, 0, 0);
    scrubber.setAttribute("aria-valuetext", `Image ${Number(scrubber.value) + 1} of ${frames.length}`);
  }

  function drawStrip() {
    const { width, height } = shape();
    Object.assign(strip, { width: frames.length * width, height });
    frames.forEach((canvas, index) => strip.getContext("2d").drawImage(canvas, index * width, 0));
  }

  function drawShares() {
    const names = [...new Set(components.flatMap((row) => row.filter((part) => part.probability > 0.05).map((part) => part.index)))].slice(0, 6);
    const of = (row, index) => row.find((part) => part.index === index)?.probability ?? 0;
    shares.toggleAttribute("hidden", !components.length);
    shares.setAttribute("viewBox", `0 0 ${components.length} 1`);
    shares.replaceChildren(...components.flatMap((row, place) => {
      let top = 1;
      return names.map((index, number) => {
        const share = of(row, index);
        top -= share;
        return s("rect", { x: place, y: top, width: 1.02, height: share, class: `hue-${number}` });
      });
    }));
    legend.replaceChildren(...names.map((index, number) => {
      const thumb = thumbnail(index, { href: linkTo("prototypes", { k: index }), view: "decoded", size: 40, note: `#${index}` });
      thumb.classList.add("keyed", `hue-${number}`);
      return thumb;
    }));
  }

  function play(on) {
    clearInterval(timer);
    timer = 0;
    playButton.setAttribute("aria-pressed", String(on));
    playButton.textContent = on ? "Pause" : "Play";
    let step = 1;
    if (!on) return;
    timer = setInterval(() => {
      const last = frames.length - 1;
      let next = Number(scrubber.value) + step;
      if (next > last || next < 0) { step = -step; next += 2 * step; }
      scrubber.value = String(next);
      showFrame();
    }, 80);
  }

  async function download(name, more) {
    try {
      save(await busy("Computing the path", latest, async (signal) =>
        postBlob("interpolate", { query: query(more), files: await uploads(), signal })), name);
    } catch (error) {
      report(trouble, error);
    }
  }

  const units = new Units(() => ends[0], unitRequests);
  root.replaceChildren(h("div", { className: "interpolate-view" },
    ends[0].element,
    h("section", { className: "panel", "aria-label": "Path" }, trouble,
      h("div", { className: "path-top" }, frame.element,
        h("div", { className: "stack grow" },
          h("div", { className: "row" }, kind, playButton, h("button", { type: "button", onclick: () => { ends.forEach((end) => end.choose(random())); load(); } }, "Two others")),
          steps.element, h("h2", { className: "label" }, "Responsible prototypes"), legend)),
      h("div", { className: "track" }, strip, scrubber, shares),
      h("div", { className: "row" }, h("span", { className: "row-label" }, "Save as"),
        h("button", { type: "button", onclick: () => download("path.png", { format: "png", scale: 4 }) }, "Strip"),
        h("button", { type: "button", onclick: () => download("path.webp", { animate: "webp", scale: 8 }) }, "WebP"),
        h("button", { type: "button", onclick: () => download("path.apng", { animate: "apng", scale: 8 }) }, "Animated PNG"),
        h("button", { type: "button", onclick: () => download("path.npy", { format: "npy" }) }, "NPY"))),
    ends[1].element,
    units.element));
  load();
  return () => { play(false); latest.cancel(); unitRequests.cancel(); };
}

/** The images of a contact sheet in one row. */
async function slices(blob) {
  const { height, width } = shape();
  const sheet = await createImageBitmap(blob);
  const count = Math.round((sheet.width - GAP) / (width + GAP));
  return Array.from({ length: count }, (_, index) => {
    const canvas = blank(width, height);
    canvas.getContext("2d").drawImage(sheet, -GAP - index * (width + GAP), -GAP);
    return canvas;
  });
}

/** One end of the path: a prototype, the user's image, or a file. */
class End {
  constructor(name, parameter, number, onchange) {
    this.canvas = null;
    this.preview = picture(name);
    this.field = numberField("Prototype", {
      min: 0, max: models.current.architecture.num_components - 1, value: number,
      onchange: (value) => { this.choose(Math.round(value)); onchange(); },
    });
    const picker = h("input", {
      type: "file", accept: "image/*", className: "visually-hidden", tabIndex: -1, "aria-hidden": "true",
      onchange: async () => {
        const file = picker.files[0];
        if (file) this.take(await fromFile(file, shape(), false, await fit()));
        onchange();
      },
    });
    this.element = h("section", { className: "panel end", "aria-label": name }, this.preview.element, h("div", { className: "stack" }, this.field.element,
      h("button", { type: "button", disabled: !mine.canvas, onclick: () => { this.take(mine.canvas); onchange(); } }, "My image"),
      h("button", { type: "button", onclick: () => picker.click() }, "File…"), picker));
    this.choose(number);
  }

  choose(number) {
    this.number = number;
    this.canvas = null;
    this.field.value = number;
    this.preview.filled();
    Sheet.of("decoded").draw(this.preview.canvas, number).catch(() => {});
  }

  take(canvas) {
    this.canvas = canvas;
    this.preview.filled();
    Object.assign(this.preview.canvas, { width: canvas.width, height: canvas.height });
    this.preview.canvas.getContext("2d").drawImage(canvas, 0, 0);
  }
}

/** Sliders of the most informative latent units of an image, and the image that they give. */
class Units {
  constructor(end, requests) {
    this.end = end;
    this.requests = requests;
    this.started = false;
    const names = Object.keys(layers());
    this.layer = segments("Layer", names.map((name) => [name, name]), names[0], () => this.load());
    this.result = picture("With these latents", { call: () => ({ method: "POST", path: "decode", query: { model: modelQuery(), scale: 8 }, json: { latents: this.latents() }, output: "decoded.png" }) });
    this.place = h("div", { className: "sliders" });
    this.trouble = h("div");
    this.element = h("section", { className: "panel", "aria-label": "Latent units" },
      h("div", { className: "toolbar" }, h("h2", null, "Latent units of the start"), h("span", { className: "spring" }),
        names.length > 1 ? this.layer : null, h("button", { type: "button", onclick: () => this.load() }, "Reset")),
      this.trouble, h("div", { className: "path-top" }, this.result.element, this.place));
  }

  /** Encode the start of the path and show sliders for the units whose posterior is narrowest. */
  async load() {
    this.started = true;
    try {
      await this.requests.run(async (signal) => {
        const end = this.end();
        const canvas = end.canvas ?? document.createElement("canvas");
        if (!end.canvas) await Sheet.of("decoded").draw(canvas, end.number);
        const answer = await postJson("encode", { query: { model: modelQuery() }, files: await toPng(canvas), signal });
        this.posterior = answer.results[0].posterior;
      });
    } catch (error) {
      return report(this.trouble, error, () => this.load());
    }
    const name = this.layer.value;
    const { mean, std } = this.posterior[name];
    this.values = Object.fromEntries(Object.entries(this.posterior).map(([layer, normal]) => [layer, [...normal.mean]]));
    const narrow = std.map((value, unit) => [value, unit]).sort((a, b) => a[0] - b[0]).slice(0, UNITS);
    this.place.replaceChildren(...narrow.map(([, unit]) => {
      const middle = mean[unit];
      return slider(`Unit ${unit}`, {
        min: (middle - 4).toFixed(2), max: (middle + 4).toFixed(2), step: 0.1, value: Number(middle.toFixed(2)), format: (value) => value.toFixed(1).replace("-", "−"),
        oninput: (value) => { this.values[name][unit] = value; this.decode(); },
      }).element;
    }));
    return this.decode();
  }

  /** The latents of the chosen layer and those above; the layers below follow them. */
  latents() {
    const names = Object.keys(layers());
    const shown = names.slice(0, names.indexOf(this.layer.value) + 1);
    return Object.fromEntries(shown.map((name) => [name, [this.values[name]]]));
  }

  async decode() {
    try {
      const answer = await this.requests.run((signal) => postJson("decode", { query: { model: modelQuery(), format: "json" }, json: { latents: this.latents() }, signal }));
      fromValues(answer.images[0], this.result.canvas);
      this.result.filled();
      this.trouble.replaceChildren();
    } catch (error) {
      report(this.trouble, error, () => this.decode());
    }
  }
}
