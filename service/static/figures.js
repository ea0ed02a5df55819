// Pictures with a caption and buttons, thumbnails of prototypes, and messages.

import { getBlob, isAbort } from "./api.js";
import { codeButton } from "./code.js";
import { h } from "./dom.js";
import { modelQuery, models, shape } from "./state.js";

/** A picture with pixels as squares: `canvas` to draw on, and a caption with a button for code. */
export function picture(caption, { call, image, extra } = {}) {
  const { width, height } = shape();
  const canvas = h("canvas", { width, height, className: "pixels", role: "img", "aria-label": caption });
  const element = h("figure", { className: "picture empty-picture" },
    h("div", { className: "frame" }, canvas),
    h("figcaption", null, h("span", null, caption), extra, call && codeButton(caption.toLowerCase(), call, image)));
  return { element, canvas, filled: () => element.classList.remove("empty-picture") };
}

/** An error as a sentence, with a button to try again. */
export function errorBox(error, retry) {
  return h("div", { className: "error", role: "alert" },
    h("p", null, error.message ?? String(error)),
    error.requestId && h("p", { className: "note" }, `Request ${error.requestId}`),
    retry && h("button", { type: "button", onclick: retry }, "Try again"));
}

/** Show an error in a place, unless it is that of a cancelled request. */
export function report(place, error, retry) {
  if (isAbort(error)) return;
  if (!error.status && error.name !== "ApiError" && !(error.message ?? "").startsWith("The service")) console.warn(error);
  place.replaceChildren(errorBox(error, retry));
}

const GAP = 2; // pixels between the images of a contact sheet
const COLUMNS = 25;
const PAGE = 500;
const sheets = new Map();

/** Contact sheets of all prototypes: one request for 500, and no further one for the same model and view. */
export class Sheet {
  /** `view` is "input" or "decoded". */
  static of(view = "input") {
    const id = `${models.current.name}@${models.current.version}/${view}`;
    if (!sheets.has(id)) sheets.set(id, new Sheet(view));
    return sheets.get(id);
  }

  constructor(view) {
    this.view = view;
    this.count = models.current.architecture.num_components;
    this.pages = new Map();
    Object.assign(this, shape());
    this.model = modelQuery();
  }

  /** Loaded page with the sprite of a prototype: {bitmap, url}. */
  page(number) {
    const page = Math.floor(number / PAGE);
    if (!this.pages.has(page)) {
      const loading = this.#load(page);
      loading.catch(() => this.pages.delete(page));
      this.pages.set(page, loading);
    }
    return this.pages.get(page);
  }

  async #load(page) {
    const query = { model: this.model, limit: PAGE, offset: page * PAGE, columns: COLUMNS, view: this.view, format: "png" };
    const blob = await getBlob("pseudo-inputs", { query });
    return { bitmap: await createImageBitmap(blob), url: URL.createObjectURL(blob), size: Math.min(PAGE, this.count - page * PAGE) };
  }

  /** Left and top of a prototype on its page; a page of one image has no margin. */
  place(number, size) {
    if (size === 1) return [0, 0];
    const index = number % PAGE, columns = Math.min(COLUMNS, size);
    return [GAP + (index % columns) * (this.width + GAP), GAP + Math.floor(index / columns) * (this.height + GAP)];
  }

  async draw(canvas, number) {
    const { bitmap, size } = await this.page(number);
    Object.assign(canvas, { width: this.width, height: this.height });
    canvas.getContext("2d").drawImage(bitmap, ...this.place(number, size), this.width, this.height, 0, 0, this.width, this.height);
  }

  /** Make an element show a prototype, each pixel enlarged `scale` times. */
  async dress(element, number, scale) {
    const { bitmap, url, size } = await this.page(number);
    const [left, top] = this.place(number, size);
    Object.assign(element.style, {
      width: `${this.width * scale}px`, height: `${this.height * scale}px`,
      backgroundImage: `url(${url})`, backgroundSize: `${bitmap.width * scale}px ${bitmap.height * scale}px`,
      backgroundPosition: `${-left * scale}px ${-top * scale}px`,
    });
  }
}

/** Whole factor that makes the model's images about `size` CSS pixels high. */
export const scaleFor = (size) => Math.max(1, Math.round(size / Math.max(shape().height, shape().width)));

/** A prototype's thumbnail as a link or a button. */
export function thumbnail(number, { size = 56, view, href, onclick, label = `Prototype ${number}`, note } = {}) {
  const sprite = h("span", { className: "sprite" });
  Sheet.of(view).dress(sprite, number, scaleFor(size)).catch(() => sprite.classList.add("broken"));
  const content = [sprite, note && h("small", null, note)];
  return href
    ? h("a", { href, className: "thumb", "aria-label": label, title: label }, content)
    : h("button", { type: "button", className: "thumb", "aria-label": label, title: label, onclick }, content);
}
