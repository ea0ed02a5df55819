// The first view: draw or drop an image, and see what the model makes of it.

import { Latest, postBlob, postJson } from "./api.js";
import { codeButton } from "./code.js";
import { announce, h } from "./dom.js";
import { Editor } from "./editor.js";
import { picture, report, thumbnail } from "./figures.js";
import { Histogram } from "./histogram.js";
import { Likelihood } from "./likelihood.js";
import { blank, centred, drawBlob, fromFile, hasLightGround, isBlank, overHeat, thresholded, toPng } from "./pixels.js";
import { fit, linkTo, mine, modelQuery, models, shape } from "./state.js";

const WAIT_WHILE_DRAWING = 60; // milliseconds without a movement until a growing stroke is sent

export function imageView(root) {
  const latest = new Latest();
  const { architecture, dataset } = models.current;
  const isBinary = architecture.likelihood === "bernoulli";
  const { width, height, channels } = shape();
  let timer = 0;
  let shownHeat = null;

  const editor = new Editor((finished) => {
    clearTimeout(timer);
    if (finished) analyse();
    else timer = setTimeout(analyse, WAIT_WHILE_DRAWING);
  });
  const likeMnist = channels === 1 && width === height && /mnist|digits/.test(dataset ?? "") && !/fashion/.test(dataset ?? "");
  const centre = h("input", { type: "checkbox", checked: likeMnist && width >= 20, onchange: () => analyse() });
  const heatToggle = h("button", {
    type: "button", className: "small", "aria-pressed": "true", onclick: () => {
      heatToggle.setAttribute("aria-pressed", String(heatToggle.getAttribute("aria-pressed") !== "true"));
      paintSeen();
    },
  }, "Heat map");

  const upload = () => (mine.canvas ? toPng(mine.canvas) : null);
  const call = (path, query = {}) => () => ({
    method: "POST", path, query: { model: modelQuery(), scale: 8, ...query }, files: 1, output: "answer.png",
  });
  const seen = picture("Input", { call: call("novelty/heatmap"), image: upload, extra: heatToggle });
  const reconstruction = picture("Reconstruction", { call: call("reconstruct"), image: upload });
  const contrast = picture("Closest prototypes", { call: call("novelty/heatmap", { view: "prototypes" }), image: upload });
  const explained = h("div", { className: "thumbs" });
  const headline = h("h2", { className: "verdict" }, "Draw something");
  const pValue = h("p", { className: "p-value" });
  const sentence = h("p", { className: "sentence" }, "or drop, paste or pick an image. Every stroke is answered.");
  const honest = h("p", { className: "note" });
  const verdict = h("section", { className: "panel verdict-panel", "aria-label": "Novelty" },
    h("div", { className: "stack grow" },
      h("div", { className: "panel-head" }, headline, codeButton("novelty", () => ({
        method: "POST", path: "novelty", query: { model: modelQuery() }, files: 1 }), upload)),
      pValue, sentence),
    h("div", { className: "explained" }, h("h3", null, "Explained best by prototypes"), explained));
  const trouble = h("div");
  const likelihood = new Likelihood(upload);
  likelihood.element.append(honest);
  const histogram = new Histogram();

  const picker = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp", className: "visually-hidden", tabIndex: -1, "aria-hidden": "true", onchange: () => take(picker.files[0]) });
  const swap = h("input", { type: "checkbox", onchange: () => lastFile && take(lastFile, swap.checked) });
  let lastFile = null;

  const presets = [
    ["Blank", "Simple images are likely under a density model, but not like those it knows.", async () => blank(width, height)],
    ["Noise", "Noise is neither likely nor like anything that the model knows.", async () => noise()],
    ["Flipped", "An image of the model, upside down. Its strokes are likely, but their arrangement is not known.", flipped],
    ["Letter", "A letter has strokes like a digit. If the p-value is not small, the model takes it for one.", async () => letter()],
    ["Sample", "An image that the model drew itself.", () => sampled()],
  ];
  const remark = h("p", { className: "note", hidden: true });
  const left = h("div", { className: "stage" }, editor.element,
    h("div", { className: "row" },
      h("button", { type: "button", onclick: () => picker.click() }, "Open image…"), picker,
      h("label", { className: "check" }, swap, "Swap dark and light")),
    likeMnist ? h("label", { className: "check" }, centre, "Fit and centre, as the data set was") : null,
    h("div", { className: "row presets", role: "group", "aria-label": "Examples" }, h("span", { className: "row-label" }, "Try"),
      presets.map(([name, words, make]) => h("button", {
        type: "button", className: "chip", onclick: async () => {
          try {
            const canvas = await make();
            centre.checked = centre.checked && name !== "Noise" && name !== "Sample" && name !== "Flipped";
            editor.load(canvas);
            remark.hidden = false;
            remark.textContent = words;
          } catch (error) {
            report(trouble, error);
          }
        },
      }, name))),
    remark, h("p", { className: "note drop-note" }, "Drop or paste an image anywhere. It is sent to this service only, and stored nowhere."));
  const right = h("div", { className: "answers" }, trouble, verdict,
    h("div", { className: "pictures" }, seen.element, reconstruction.element, contrast.element),
    h("div", { className: "pair" }, histogram.element, likelihood.element));
  root.replaceChildren(h("div", { className: "image-view" }, left, right));

  if (mine.canvas && mine.canvas.width === width && mine.canvas.height === height) {
    const kept = mine.canvas;
    centre.checked = false;
    editor.load(kept);
  } else {
    mine.canvas = null;
    explained.append(...Array.from({ length: 3 }, () => h("span", { className: "thumb-space" })));
  }

  const drop = (event) => { event.preventDefault(); root.classList.remove("dropping"); take(event.dataTransfer.files[0]); };
  const over = (event) => { event.preventDefault(); root.classList.add("dropping"); };
  const leave = (event) => { if (!event.relatedTarget) root.classList.remove("dropping"); };
  const paste = (event) => take([...event.clipboardData.files][0]);
  document.addEventListener("drop", drop);
  document.addEventListener("dragover", over);
  document.addEventListener("dragleave", leave);
  document.addEventListener("paste", paste);

  async function take(file, invert) {
    if (!file) return;
    try {
      const canvas = await fromFile(file, shape(), invert ?? false, await fit());
      if (invert === undefined && channels === 1 && likeMnist && hasLightGround(canvas)) {
        swap.checked = true;
        return void take(file, true);
      }
      swap.checked = invert ?? false;
      lastFile = file;
      mine.name = file.name || "image.png";
      centre.checked = false;
      remark.hidden = true;
      editor.load(canvas);
    } catch {
      report(trouble, new Error(`${file.name || "The file"} is not an image that this browser can read. Use PNG, JPEG or WebP.`));
    }
  }

  function noise() {
    const canvas = blank(width, height);
    const image = canvas.getContext("2d").createImageData(width, height);
    for (let i = 0; i < image.data.length; i += 4) {
      const levels = Array.from({ length: channels }, () => (isBinary ? 255 * (Math.random() < 0.5) : 256 * Math.random()));
      image.data.set([levels[0], levels.at(channels === 3 ? 1 : 0), levels.at(-1), 255], i);
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  async function sampled() {
    const query = { model: modelQuery(), seed: Math.floor(Math.random() * 1e6), mode: architecture.likelihood === "bernoulli" ? "mean" : "draw" };
    const canvas = blank(width, height);
    await drawBlob(canvas, await postBlob("sample", { query }));
    return canvas;
  }

  async function flipped() {
    const canvas = blank(width, height);
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, -1, 0, height);
    context.drawImage(await sampled(), 0, 0);
    return canvas;
  }

  function letter() {
    const canvas = blank(width, height);
    const context = canvas.getContext("2d");
    Object.assign(context, { fillStyle: "#fff", textAlign: "center", textBaseline: "middle", font: `600 ${0.75 * height}px sans-serif` });
    context.fillText("ABEFGHKMRTXY"[Math.floor(12 * Math.random())], width / 2, height * 0.53);
    return canvas;
  }

  function paintSeen() {
    if (!mine.canvas) return;
    const image = isBinary ? thresholded(mine.canvas) : mine.canvas;
    seen.filled();
    if (shownHeat && heatToggle.getAttribute("aria-pressed") === "true") overHeat(seen.canvas, image, shownHeat);
    else {
      Object.assign(seen.canvas, { width: image.width, height: image.height });
      seen.canvas.getContext("2d").drawImage(image, 0, 0);
    }
  }

  async function analyse() {
    clearTimeout(timer);
    const drawing = editor.copy();
    mine.canvas = centre.checked && !isBlank(drawing) ? centred(drawing) : drawing;
    const task = latest.run(async (signal) => {
      performance.mark("stroke");
      const png = await toPng(mine.canvas);
      if (signal.aborted) return;
      const options = { query: { model: modelQuery() }, files: png, signal };
      const withFormat = (query) => ({ ...options, query: { ...options.query, format: "png", ...query } });
      const show = async (place, blob) => {
        const canvas = blank(1, 1);
        await drawBlob(canvas, await blob);
        if (!signal.aborted) { place.filled?.(); drawOnto(place.canvas, canvas); }
      };
      const heat = (async () => {
        const canvas = blank(1, 1);
        await drawBlob(canvas, await postBlob("novelty/heatmap", withFormat({ view: "heat" })));
        if (signal.aborted) return;
        shownHeat = canvas;
        paintSeen();
      })();
      const results = await Promise.allSettled([
        postJson("novelty", options).then((answer) => { if (!signal.aborted) showNovelty(answer.results[0]); }),
        show(reconstruction, postBlob("reconstruct", withFormat({}))),
        heat,
        show(contrast, postBlob("novelty/heatmap", withFormat({ view: "prototypes" }))),
      ]);
      if (signal.aborted) return;
      performance.measure("stroke answered", "stroke");
      document.documentElement.dataset.strokes = String(1 + Number(document.documentElement.dataset.strokes ?? 0));
      const failed = results.find((result) => result.status === "rejected");
      if (results[0].status === "rejected") clearNovelty();
      if (failed) report(trouble, failed.reason, analyse);
      else trouble.replaceChildren();
      await likelihood.run(png, signal);
    });
    await task.catch(() => {}); // a newer stroke cancelled it, or it has been reported
  }

  function clearNovelty() {
    headline.textContent = "No answer";
    pValue.textContent = sentence.textContent = "";
    verdict.classList.remove("novel", "known");
    explained.replaceChildren();
    histogram.show(null);
  }

  function showNovelty(result) {
    headline.textContent = result.novel ? "New to the model" : "Like what the model knows";
    verdict.classList.toggle("novel", result.novel);
    verdict.classList.toggle("known", !result.novel);
    pValue.replaceChildren(h("var", null, "p"), ` = ${result.p_value.toFixed(result.p_value < 0.01 ? 4 : 3)}`);
    sentence.textContent = result.summary;
    explained.replaceChildren(...result.prototypes.map(({ index, log_prob }) => thumbnail(index, {
      href: linkTo("prototypes", { k: index }), view: "decoded", size: 64,
      label: `Prototype ${index}, log-probability ${log_prob.toFixed(1)} nats`, note: `#${index}`,
    })), result.prototypes.length ? "" : h("p", { className: "note" }, "This model has no prototypes."));
    histogram.show(result);
    announce(`${headline.textContent}, p = ${result.p_value.toFixed(3)}`);
  }

  return () => {
    clearTimeout(timer);
    latest.cancel();
    document.removeEventListener("drop", drop);
    document.removeEventListener("dragover", over);
    document.removeEventListener("dragleave", leave);
    document.removeEventListener("paste", paste);
  };
}

function drawOnto(target, source) {
  Object.assign(target, { width: source.width, height: source.height });
  target.getContext("2d").drawImage(source, 0, 0);
}
