// All prototypes in a grid, and images drawn from one of them.

import { Latest, busy, postBlob, postJson } from "./api.js";
import { codeButton } from "./code.js";
import { announce, h, numberField, save, segments } from "./dom.js";
import { Sheet, report, scaleFor } from "./figures.js";
import { blank, drawBlob, toPng } from "./pixels.js";
import { linkTo, mine, modelQuery, models, read, shape, write } from "./state.js";

export function prototypesView(root) {
  const latest = new Latest(), ordering = new Latest();
  const { num_components: count, prior } = models.current.architecture;
  const hasInputs = prior.includes("vampprior");
  const scale = scaleFor(52);
  let view = read("show") === "input" && hasInputs ? "input" : "decoded";
  let chosen = null;

  const grid = h("div", { className: "grid", role: "listbox", "aria-label": `${count} prototypes`, tabIndex: -1 });
  const cells = Array.from({ length: count }, (_, index) => h("button", {
    type: "button", className: "cell", role: "option", "aria-selected": "false", tabIndex: index ? -1 : 0,
    "aria-label": `Prototype ${index}`, title: `Prototype ${index}`, onclick: () => choose(index),
  }));
  const trouble = h("div");
  const visible = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      visible.unobserve(target);
      Sheet.of(view).dress(target, cells.indexOf(target), scale).catch((error) => report(trouble, error, dressAll));
    }
  }, { rootMargin: "300px" });
  function dressAll() {
    trouble.replaceChildren();
    for (const cell of cells) {
      Object.assign(cell.style, { width: `${shape().width * scale}px`, height: `${shape().height * scale}px` });
      visible.unobserve(cell);
      visible.observe(cell);
    }
  }
  grid.append(...cells);
  grid.addEventListener("keydown", (event) => {
    const order = [...grid.children];
    const place = order.indexOf(document.activeElement);
    if (place < 0) return;
    const perRow = order.filter((cell) => cell.offsetTop === order[0].offsetTop).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -perRow, ArrowDown: perRow, Home: -place, End: order.length - 1 - place }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const next = order[Math.min(order.length - 1, Math.max(0, place + step))];
    order[place].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });

  const orders = [["number", "Number"], ["similar", "Similar to my image"]];
  const sort = h("select", { id: "sort", onchange: () => arrange(sort.value) }, orders.map(([value, text]) => h("option", { value }, text)));
  if (!mine.canvas) sort.options[1].disabled = true;
  const look = segments("What to show", [["decoded", "Decoded"], ["input", "Inputs"]], view, (value) => {
    view = value;
    write({ show: value === "input" ? value : null });
    dressAll();
    if (chosen !== null) showLarge();
  });

  async function arrange(order) {
    try {
      if (order === "number") return grid.append(...cells);
      await ordering.run(async (signal) => {
        const query = { model: modelQuery(), top: Math.min(100, count) };
        const answer = await postJson("encode", { query, files: await toPng(mine.canvas), signal });
        const first = answer.results[0].components.map(({ index }) => cells[index]);
        grid.append(...first, ...cells.filter((cell) => !first.includes(cell)));
        announce("Sorted, most similar first");
      });
    } catch (error) {
      report(trouble, error, () => arrange(order));
    }
  }

  // samples of the chosen one

  const large = h("canvas", { className: "pixels", role: "img" });
  const title = h("h2", { tabIndex: -1 });
  const sheet = h("canvas", { className: "pixels sheet", role: "img", "aria-label": "Samples" });
  const n = numberField("Images", { min: 1, max: 64, value: 16, onchange: draw });
  const seed = numberField("Seed", { min: 0, max: 1e9, value: 0, onchange: draw });
  const temperature = numberField("Temperature", { min: 0, max: 10, step: 0.1, value: 1, onchange: draw });
  const mode = segments("Pixels", [["mean", "Mean"], ["draw", "Draw"]], "mean", draw);
  const samplesTrouble = h("div");
  const query = (more = {}) => ({
    model: modelQuery(), pseudo_input: hasInputs ? chosen : undefined, n: n.value, seed: seed.value,
    temperature: temperature.value, mode: mode.value, columns: Math.ceil(Math.sqrt(n.value)), ...more,
  });
  const fetchFile = async (format, name, more) => {
    try {
      save(await busy("Drawing", latest, (signal) => postBlob("sample", { query: query({ format, ...more }), signal })), name);
    } catch (error) {
      report(samplesTrouble, error);
    }
  };
  const detail = h("aside", { className: "panel detail", "aria-label": "Samples of a prototype" },
    h("p", { className: "empty" }, "Choose a prototype to see images drawn from it."));
  const content = [
    h("div", { className: "panel-head" }, title, codeButton("samples", () => ({
      method: "POST", path: "sample", query: query({ scale: 4 }), output: "samples.png" }))),
    h("div", { className: "detail-top" }, h("div", { className: "frame" }, large), h("div", { className: "stack" },
      h("button", { type: "button", onclick: useIt }, "Use as my image"),
      h("a", { className: "button", id: "go-interpolate" }, "Interpolate from it"))),
    hasInputs ? null : h("p", { className: "note" }, "This prior has no pseudo-inputs: the samples are from the whole prior."),
    h("div", { className: "fields" }, n.element, seed.element, temperature.element),
    h("div", { className: "row" }, mode, h("button", { type: "button", onclick: () => { seed.value = Math.floor(Math.random() * 1e6); draw(); } }, "New seed")),
    samplesTrouble, sheet,
    h("div", { className: "row" }, h("button", { type: "button", onclick: () => fetchFile("png", "samples.png", { scale: 4 }) }, "PNG"),
      h("button", { type: "button", onclick: () => fetchFile("npy", "samples.npy") }, "NPY")),
  ];

  async function useIt() {
    const { width, height } = shape();
    const canvas = blank(width, height);
    await Sheet.of(view).draw(canvas, chosen);
    mine.canvas = canvas;
    mine.name = `prototype-${chosen}.png`;
    history.pushState(null, "", linkTo("image"));
    dispatchEvent(new PopStateEvent("popstate"));
  }

  function choose(index, { focus = true } = {}) {
    if (chosen !== null) cells[chosen].setAttribute("aria-selected", "false");
    chosen = index;
    cells[index].setAttribute("aria-selected", "true");
    write({ k: index });
    title.textContent = `Prototype ${index}`;
    if (!title.isConnected) detail.replaceChildren(...content.filter(Boolean));
    content[1].querySelector("a").href = linkTo("interpolate", { from: index });
    large.setAttribute("aria-label", `Prototype ${index}`);
    showLarge();
    draw();
    if (focus && matchMedia("(max-width: 900px)").matches) detail.scrollIntoView({ block: "start" });
  }

  const showLarge = () => Sheet.of(view).draw(large, chosen).catch((error) => report(trouble, error));

  async function draw() {
    if (chosen === null) return;
    try {
      const blob = await busy("Drawing samples", latest, (signal) => postBlob("sample", { query: query({ format: "png" }), signal }));
      await drawBlob(sheet, blob);
      sheet.setAttribute("aria-label", `${n.value} samples of prototype ${chosen}`);
      samplesTrouble.replaceChildren();
    } catch (error) {
      report(samplesTrouble, error, draw);
    }
  }

  root.replaceChildren(h("div", { className: "split" },
    h("section", { className: "gallery", "aria-label": "Gallery" },
      h("div", { className: "toolbar" }, h("h2", null, `${count} prototypes`), h("span", { className: "spring" }),
        hasInputs ? look : null, h("label", { className: "field inline" }, h("span", null, "Order"), sort)),
      trouble, grid), detail));
  dressAll();
  const wanted = Number(read("k") ?? NaN);
  if (Number.isInteger(wanted) && wanted >= 0 && wanted < count) choose(wanted, { focus: false });

  return () => { latest.cancel(); ordering.cancel(); visible.disconnect(); };
}
