// Many files: a table that fills while the service decides.

import { ApiError, Latest, busy, isAbort, postJson } from "./api.js";
import { announce, h, save } from "./dom.js";
import { report } from "./figures.js";
import { modelQuery } from "./state.js";

const BATCH = 16; // files of a request
const MOST = 2000;
const COLUMNS = [["name", "File"], ["p", "p-value"], ["score", "Score"], ["elbo", "ELBO, nats"], ["novel", "Decision"]];

export function filesView(root) {
  const latest = new Latest();
  let rows = [], order = "p", ascending = true, urls = [];
  let rate = 0.01; // until the first answer names its own
  const picker = h("input", { type: "file", multiple: true, accept: "image/*", className: "visually-hidden", tabIndex: -1, "aria-hidden": "true", onchange: () => run([...picker.files]) });
  const folder = h("input", { type: "file", className: "visually-hidden", tabIndex: -1, "aria-hidden": "true", onchange: () => run([...folder.files]) });
  folder.webkitdirectory = true;
  const invert = h("input", { type: "checkbox" });
  const filter = h("input", { type: "search", placeholder: "Filter by name", "aria-label": "Filter by name", oninput: () => show() });
  const onlyNew = h("input", { type: "checkbox", onchange: () => show() });
  const summary = h("p", { className: "note", role: "status" });
  const trouble = h("div");
  const body = h("tbody");
  const heads = COLUMNS.map(([key, text]) => h("th", { scope: "col", className: ["p", "score", "elbo"].includes(key) ? "number" : "" }, h("button", {
    type: "button", onclick: () => { ascending = order === key ? !ascending : true; order = key; show(); },
  }, text)));
  const table = h("div", { className: "table-frame", hidden: true, tabIndex: 0, role: "region", "aria-label": "Results" }, h("table", null,
    h("thead", null, h("tr", null, h("th", { scope: "col" }, h("span", { className: "visually-hidden" }, "Image")), heads)), body));
  const zone = h("div", { className: "zone" },
    h("p", { className: "zone-title" }, "Drop a folder or files here"),
    h("p", { className: "note" }, "Each image is compared with those that the model knows. PNG, JPEG or WebP; other sizes are fitted. Nothing is stored."),
    h("div", { className: "row centre" },
      h("button", { type: "button", className: "primary", onclick: () => folder.click() }, "Choose a folder"),
      h("button", { type: "button", onclick: () => picker.click() }, "Choose files"), folder, picker,
      h("label", { className: "check" }, invert, "Swap dark and light")));
  const download = h("button", { type: "button", onclick: () => save(new Blob([asCsv(sorted())], { type: "text/csv" }), "novelty.csv") }, "CSV");
  const bar = h("div", { className: "toolbar", hidden: true }, filter, h("label", { className: "check" }, onlyNew, "New ones only"),
    h("span", { className: "spring" }), download);
  root.replaceChildren(h("div", { className: "files-view" }, zone, trouble, bar, summary, table));

  const over = (event) => { event.preventDefault(); zone.classList.add("over"); };
  const leave = (event) => { if (!event.relatedTarget) zone.classList.remove("over"); };
  const drop = async (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    run(entries.length ? await filesOf(entries) : [...event.dataTransfer.files]);
  };
  document.addEventListener("dragover", over);
  document.addEventListener("dragleave", leave);
  document.addEventListener("drop", drop);

  async function run(files) {
    const images = files.filter((file) => /^image\/(png|jpeg|webp)$/.test(file.type)).slice(0, MOST);
    if (!images.length) return report(trouble, new Error("There is no PNG, JPEG or WebP image among these files."));
    latest.cancel();
    urls.forEach((url) => URL.revokeObjectURL(url));
    urls = [];
    rows = [];
    trouble.replaceChildren();
    bar.hidden = table.hidden = false;
    show();
    try {
      await busy("Deciding", latest, async (signal, progress) => {
        for (let start = 0; start < images.length; start += BATCH) {
          progress(start / images.length, `${start} of ${images.length} files`);
          rows.push(...await decide(images.slice(start, start + BATCH), signal));
          show();
        }
      });
      announce(`${rows.length} files decided`);
    } catch (error) {
      if (isAbort(error)) summary.textContent += " Cancelled.";
      else report(trouble, error, () => run(files));
    }
  }

  /** Rows of a batch. If the service refuses it, its files are sent one by one to find the bad one. */
  async function decide(batch, signal) {
    try {
      const answer = await postJson("novelty", { query: { model: modelQuery(), resize: true, invert: invert.checked }, files: batch, signal });
      rate = answer.false_alarm_rate;
      return answer.results.map((result, index) => row(batch[index], {
        p: result.p_value, score: result.score, elbo: result.statistics.elbo.value, novel: result.novel, summary: result.summary,
      }));
    } catch (error) {
      if (!(error instanceof ApiError) || ![400, 413, 415, 422].includes(error.status)) throw error;
      if (batch.length === 1) return [row(batch[0], { problem: error.message })];
      const parts = [];
      for (const file of batch) parts.push(...await decide([file], signal));
      return parts;
    }
  }

  function row(file, result) {
    const url = URL.createObjectURL(file);
    urls.push(url);
    const name = file.webkitRelativePath || file.name;
    const image = h("img", { src: url, alt: "", width: 40, height: 40, loading: "lazy", className: "pixels" });
    const decision = result.problem ? h("span", { className: "badge bad" }, "Not readable")
      : h("span", { className: result.novel ? "badge novel" : "badge known" }, result.novel ? "New" : "Known");
    const number = (value, digits) => h("td", { className: "number" }, value === undefined ? "–" : value.toFixed(digits).replace("-", "−"));
    const element = h("tr", { title: result.summary ?? result.problem }, h("td", null, image), h("th", { scope: "row" }, name, result.problem && h("small", null, result.problem)),
      number(result.p, 4), number(result.score, 2), number(result.elbo, 1), h("td", null, decision));
    return { name, element, ...result };
  }

  function sorted() {
    const words = filter.value.toLowerCase();
    const chosen = rows.filter((item) => item.name.toLowerCase().includes(words) && (!onlyNew.checked || item.novel));
    const value = (item) => (order === "novel" ? -Number(item.novel ?? -1) : item[order] ?? Infinity);
    const sign = ascending ? 1 : -1;
    return chosen.sort((a, b) => sign * (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0));
  }

  function show() {
    const shown = sorted();
    body.replaceChildren(...shown.map((item) => item.element));
    COLUMNS.forEach(([key], index) => heads[index].setAttribute("aria-sort", order === key ? (ascending ? "ascending" : "descending") : "none"));
    const found = rows.filter((item) => item.novel).length;
    summary.textContent = rows.length ? `${rows.length} files, ${found} new to the model at a false-alarm rate of ${Number(rate.toPrecision(3))}.` : "Waiting for the first answers…";
  }

  return () => {
    latest.cancel();
    urls.forEach((url) => URL.revokeObjectURL(url));
    document.removeEventListener("dragover", over);
    document.removeEventListener("dragleave", leave);
    document.removeEventListener("drop", drop);
  };
}

/** All files below dropped folders. */
async function filesOf(entries) {
  const files = [];
  for (const entry of entries) {
    if (entry.isFile) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    else {
      const reader = entry.createReader();
      for (;;) { // a reader gives at most 100 entries at a time
        const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        if (!some.length) break;
        files.push(...await filesOf(some));
      }
    }
  }
  return files;
}

/** The rows as CSV; a leading apostrophe keeps spreadsheets from taking a name for a formula. */
function asCsv(rows) {
  const cell = (value) => {
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value ?? "");
    return `"${text.replaceAll('"', '""')}"`;
  };
  const lines = rows.map(({ name, p, score, elbo, novel, summary, problem }) => [name, p, score, elbo, novel, summary ?? problem].map(cell).join(","));
  return ["file,p_value,score,elbo,novel,summary", ...lines, ""].join("\r\n");
}
