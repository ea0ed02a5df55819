// Where an image's novelty score lies among those of known images, and what a false-alarm rate would flag.

import { getJson } from "./api.js";
import { h, s, slider } from "./dom.js";
import { report } from "./figures.js";
import { reference, models } from "./state.js";

const BINS = 48, WIDTH = 380, HEIGHT = 132, GROUND = 108;

export class Histogram {
  constructor() {
    this.plot = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Novelty scores of known images" });
    this.sentence = h("p", { className: "note" });
    this.place = h("div", { className: "histogram" });
    this.rate = slider("False alarms per 1,000", { min: 1, max: 200, value: 10, oninput: () => this.#update() });
    this.element = h("section", { className: "panel", "aria-label": "Among known images" },
      h("h3", null, "Among known images"), this.place, this.rate.element, this.sentence);
    this.result = null;
    this.#load();
  }

  async #load() {
    try {
      const answer = await getJson(`models/${reference(models.current)}/calibration`);
      this.scores = answer.quantiles.score;
      this.count = answer.num_images;
      this.rate.input.min = String(Math.max(1, Math.ceil(1000 / (this.count + 1))));
      this.rate.value = Math.max(10, Number(this.rate.input.min));
      this.place.replaceChildren(this.plot);
      this.#draw();
      this.#update();
    } catch (error) {
      report(this.place, error);
      this.rate.element.hidden = true;
    }
  }

  /** Show the result of `POST /novelty`, or none. */
  show(result) {
    this.result = result;
    if (this.scores) this.#update();
  }

  #draw() {
    const scores = this.scores;
    this.low = scores[0];
    this.high = Math.max(scores[1000], scores[995] * 1.15);
    const counts = new Array(BINS).fill(0);
    for (const score of scores) counts[Math.min(BINS - 1, Math.floor((BINS * (score - this.low)) / (this.high - this.low || 1)))]++;
    const most = Math.max(...counts);
    const step = WIDTH / BINS;
    this.bars = counts.map((count, bin) => s("rect", {
      x: bin * step + 0.5, width: step - 1, y: GROUND - (96 * count) / most, height: (96 * count) / most + 1, rx: 1,
    }));
    this.limit = s("line", { class: "limit", y1: 4, y2: GROUND + 4 });
    this.marker = s("g", { class: "marker" }, s("path", { d: "M0 6 V108" }), s("circle", { cy: 6, r: 5 }));
    this.marker.style.display = "none";
    this.plot.replaceChildren(
      ...this.bars, s("line", { class: "axis", x1: 0, x2: WIDTH, y1: GROUND + 1, y2: GROUND + 1 }), this.limit, this.marker,
      s("text", { x: 0, y: HEIGHT - 6 }, "typical"), s("text", { x: WIDTH, y: HEIGHT - 6, "text-anchor": "end" }, "unusual"));
  }

  #x(score) {
    return Math.min(WIDTH - 6, Math.max(6, (WIDTH * (score - this.low)) / (this.high - this.low || 1)));
  }

  #update() {
    if (!this.scores) return;
    const perThousand = this.rate.value;
    const threshold = this.scores[1000 - perThousand];
    const x = this.#x(threshold);
    this.limit.setAttribute("x1", x);
    this.limit.setAttribute("x2", x);
    this.bars.forEach((bar, bin) => bar.setAttribute("class", ((bin + 0.5) * WIDTH) / BINS > x ? "flagged" : ""));
    this.marker.style.display = this.result ? "" : "none";
    if (!this.result) {
      this.sentence.textContent = `${this.count.toLocaleString("en")} images that the model was not trained on.`;
      return;
    }
    const flagged = this.result.p_value <= perThousand / 1000;
    this.marker.setAttribute("transform", `translate(${this.#x(this.result.score)} 0)`);
    this.marker.setAttribute("class", flagged ? "marker flagged" : "marker");
    this.sentence.textContent =
      `If ${perThousand} of 1,000 known images may be flagged by mistake, this image is ${flagged ? "flagged as new" : "not flagged"}.`;
  }
}
