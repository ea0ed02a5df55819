// The log-likelihood of an image, whose error bar shrinks while samples come in.

import { ApiError, getJson, isAbort, lines, postJson, request } from "./api.js";
import { codeButton } from "./code.js";
import { h, s } from "./dom.js";
import { report } from "./figures.js";
import { modelQuery } from "./state.js";

const MOST = 5000;
const STEPS = [16, 128, 1024, MOST]; // for a service that does not stream
const WIDTH = 380;

export class Likelihood {
  constructor(image) {
    this.value = h("p", { className: "figure-value" }, "–");
    this.words = h("p", { className: "note" });
    this.place = h("div");
    this.progress = h("progress", { max: MOST, value: 0, "aria-label": "Importance samples", hidden: true });
    this.bar = s("svg", { viewBox: `0 0 ${WIDTH} 48`, class: "error-bar", "aria-hidden": "true" });
    const call = () => ({ method: "POST", path: "loglik", query: { model: modelQuery() }, files: 1 });
    this.element = h("section", { className: "panel", "aria-label": "Log-likelihood" },
      h("div", { className: "panel-head" }, h("h3", null, "Log-likelihood"), codeButton("log-likelihood", call, image)),
      this.value, this.bar, this.progress, this.words, this.place);
    this.range = null;
  }

  /** Estimate with more and more samples, until the signal aborts. */
  async run(png, signal) {
    this.range = this.width = null;
    this.progress.hidden = false;
    this.progress.value = 0;
    try {
      await this.#stream(png, signal);
      this.place.replaceChildren();
    } catch (error) {
      report(this.place, error);
      if (isAbort(error)) throw error;
    } finally {
      if (!signal.aborted) this.progress.hidden = true;
    }
  }

  async #stream(png, signal) {
    if (await canStream()) {
      const query = { model: modelQuery(), progress: true };
      const response = await request("POST", "loglik", { query, files: png, signal, headers: { Accept: "application/x-ndjson" } });
      for await (const line of lines(response)) {
        const trouble = line.detail ?? line.problem?.detail;
        if (trouble) throw new ApiError(trouble, line.status ?? line.problem?.status);
        this.#show(line);
      }
      return;
    }
    for (const num_samples of STEPS) {
      const answer = await postJson("loglik", { query: { model: modelQuery(), num_samples }, files: png, signal });
      this.#show(answer.results[0]);
    }
  }

  #show(result) {
    if (typeof result.log_likelihood !== "number") return;
    const { log_likelihood: value, standard_error: error, num_samples: count } = result;
    this.progress.value = count;
    this.value.replaceChildren(signed(value, 2),
      h("span", { className: "unit" }, error === null ? " nats" : ` ± ${error.toFixed(2)} nats`));
    const doubtful = result.reliability === "low" ? " The error may be larger than shown." : "";
    this.words.textContent =
      `${count.toLocaleString("en")} importance samples. ${count >= MOST && result.summary ? result.summary : ""}${doubtful}`;
    this.#draw(value, error);
  }

  /** The error bar on an axis that the first estimate sets, so that one sees it shrink. */
  #draw(value, error) {
    const spread = Math.max(error ?? 0, 0.05);
    this.width ??= 6 * Math.max(spread, 0.6);
    if (!this.range || value - spread < this.range[0] || value + spread > this.range[1]) {
      this.range = [value - this.width, value + this.width];
    }
    const [low, high] = this.range;
    const x = (nats) => Math.min(WIDTH - 4, Math.max(4, (WIDTH * (nats - low)) / (high - low)));
    this.bar.replaceChildren(
      s("line", { class: "axis", x1: 0, x2: WIDTH, y1: 17, y2: 17 }),
      s("rect", { x: x(value - 2 * spread), width: Math.max(2, x(value + 2 * spread) - x(value - 2 * spread)), y: 11, height: 12, rx: 6 }),
      s("circle", { cx: x(value), cy: 17, r: 6 }),
      s("text", { x: 0, y: 43 }, signed(low, 1)), s("text", { x: WIDTH, y: 43, "text-anchor": "end" }, signed(high, 1)));
  }
}

const signed = (value, digits) => value.toFixed(digits).replace("-", "−");

let streams = null;

/** Whether the service streams the progress of an estimate, as its description says. */
function canStream() {
  streams ??= getJson("openapi.json").then(
    (document) => document.paths["/loglik"].post.parameters.some(({ name }) => name === "progress"), () => false);
  return streams;
}
