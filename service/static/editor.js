// A canvas of the model's size to draw on, with pen, eraser, undo, touch and keyboard.

import { announce, h, slider } from "./dom.js";
import { blank, copy } from "./pixels.js";
import { shape } from "./state.js";

const MAX_UNDO = 60;

export class Editor {
  /** `onchange(isFinished)` is called while a stroke grows and when it ends. */
  constructor(onchange) {
    const { width, height, channels } = shape();
    this.onchange = onchange;
    this.canvas = blank(width, height);
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.past = [];
    this.erasing = false;
    this.cursor = [width >> 1, height >> 1];
    Object.assign(this.canvas, { className: "pixels drawing", tabIndex: 0 });
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "drawing");
    this.canvas.setAttribute("aria-label",
      `Drawing of ${width} by ${height} pixels. Arrow keys move the pen, Space draws, E erases, Z undoes.`);
    this.mark = h("div", { className: "cursor", "aria-hidden": "true", hidden: true });
    this.pen = h("button", { type: "button", "aria-pressed": "true", onclick: () => this.erase(false) }, "Pen");
    this.rubber = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.erase(true) }, "Eraser");
    this.undoButton = h("button", { type: "button", disabled: true, onclick: () => this.undo() }, "Undo");
    this.clearButton = h("button", { type: "button", onclick: () => this.clear() }, "Clear");
    const usual = Math.max(1, height / 14);
    this.width = slider("Pen width", { min: 1, max: Math.max(3, height / 5), step: 0.5, value: usual, format: (value) => `${Number(value).toFixed(1)} px` });
    this.colour = channels === 3 ? h("input", { type: "color", value: "#ffffff", "aria-label": "Colour" }) : null;
    this.element = h("div", { className: "editor" },
      h("div", { className: "frame drawing-frame" }, this.canvas, this.mark),
      h("div", { className: "row" },
        h("div", { className: "segments", role: "group", "aria-label": "Tool" }, this.pen, this.rubber),
        this.colour, h("span", { className: "spring" }), this.undoButton, this.clearButton),
      this.width.element);
    this.element.style.setProperty("--ratio", `${width} / ${height}`);
    this.#listen();
  }

  erase(erasing) {
    this.erasing = erasing;
    this.pen.setAttribute("aria-pressed", String(!erasing));
    this.rubber.setAttribute("aria-pressed", String(erasing));
  }

  /** Replace the drawing, as a step that can be undone. */
  load(source) {
    this.#remember();
    this.context.drawImage(source, 0, 0, this.canvas.width, this.canvas.height);
    this.onchange(true);
  }

  clear() {
    this.#remember();
    this.#wipe();
    this.onchange(true);
  }

  undo() {
    const last = this.past.pop();
    if (!last) return;
    this.context.putImageData(last, 0, 0);
    this.undoButton.disabled = !this.past.length;
    announce("Undone");
    this.onchange(true);
  }

  copy() {
    return copy(this.canvas);
  }

  #wipe() {
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  #remember() {
    this.past.push(this.context.getImageData(0, 0, this.canvas.width, this.canvas.height));
    if (this.past.length > MAX_UNDO) this.past.shift();
    this.undoButton.disabled = false;
  }

  #line(from, to) {
    const context = this.context;
    Object.assign(context, {
      lineCap: "round", lineJoin: "round", lineWidth: this.width.value,
      strokeStyle: this.erasing ? "#000" : this.colour?.value ?? "#fff",
    });
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(to[0] + 0.01, to[1]); // a line without length is not drawn
    context.stroke();
  }

  #listen() {
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [
        ((event.clientX - box.left) / box.width) * this.canvas.width,
        ((event.clientY - box.top) / box.height) * this.canvas.height,
      ];
    };
    let last = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 0 || last) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.#remember();
      last = place(event);
      this.#line(last, last);
      this.onchange(false);
      this.mark.hidden = true;
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      const events = event.getCoalescedEvents?.() ?? [];
      for (const one of events.length ? events : [event]) {
        const next = place(one);
        this.#line(last, next);
        last = next;
      }
      this.onchange(false);
    });
    const end = () => {
      if (!last) return;
      last = null;
      this.onchange(true);
    };
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", end);
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.canvas.addEventListener("focus", () => { this.mark.hidden = !this.canvas.matches(":focus-visible"); this.#showCursor(); });
    this.canvas.addEventListener("blur", () => { this.mark.hidden = true; });
  }

  #key(event) {
    if (event.altKey || ((event.ctrlKey || event.metaKey) && event.key !== "z")) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    const middle = () => this.cursor.map((value) => value + 0.5);
    if (step) {
      const from = middle();
      this.cursor = [
        Math.min(this.canvas.width - 1, Math.max(0, this.cursor[0] + step[0])),
        Math.min(this.canvas.height - 1, Math.max(0, this.cursor[1] + step[1])),
      ];
      this.mark.hidden = false;
      this.#showCursor();
      if (event.shiftKey) this.#stroke(from, middle());
      else announce(`Column ${this.cursor[0] + 1}, row ${this.cursor[1] + 1}`);
    } else if (event.key === " ") this.#stroke(middle(), middle());
    else if (event.key === "e") this.erase(!this.erasing);
    else if (event.key === "z") this.undo();
    else return;
    event.preventDefault();
  }

  #stroke(from, to) {
    this.#remember();
    this.#line(from, to);
    this.onchange(true);
  }

  #showCursor() {
    this.mark.style.left = `${(100 * this.cursor[0]) / this.canvas.width}%`;
    this.mark.style.top = `${(100 * this.cursor[1]) / this.canvas.height}%`;
    this.mark.style.width = `${100 / this.canvas.width}%`;
    this.mark.style.height = `${100 / this.canvas.height}%`;
  }
}
