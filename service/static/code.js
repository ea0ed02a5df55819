// "Copy as curl" and "copy as Python" for a request.

import { address, hasKey } from "./api.js";
import { $, announce, h, save } from "./dom.js";

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;

/** A curl command of a call {method, path, query, files, json, output}; `files` is the number of uploads. */
export function asCurl({ method, path, query, files = 0, json, output }) {
  const parts = ["curl"];
  if (method === "POST" && !files && !json) parts.push("-X POST");
  if (hasKey()) parts.push('-H "X-API-Key: $API_KEY"');
  if (json) parts.push("-H 'Content-Type: application/json'", `--data ${quoted(JSON.stringify(json))}`);
  for (let number = 1; number <= files; number++) parts.push(`-F file=@${fileName(number, files)}`);
  parts.push(quoted(address(path, query)));
  if (output) parts.push(`-o ${output}`);
  return parts.join(" \\\n  ");
}

/** A Python program of the same call, which needs httpx. */
export function asPython({ method, path, query, files = 0, json, output }) {
  const parameters = Object.fromEntries(address(path, query).searchParams);
  const given = [JSON.stringify(String(address(path)))];
  if (Object.keys(parameters).length) given.push(`params=${JSON.stringify(parameters)}`);
  if (files) {
    const names = Array.from({ length: files }, (_, index) => `("file", open("${fileName(index + 1, files)}", "rb"))`);
    given.push(`files=[${names.join(", ")}]`);
  }
  if (json) given.push(`json=${JSON.stringify(json)}`);
  if (hasKey()) given.push('headers={"X-API-Key": os.environ["API_KEY"]}');
  const last = output
    ? `pathlib.Path("${output}").write_bytes(response.content)` : "print(response.json())";
  const imports = [hasKey() && "import os", output && "import pathlib", "import httpx"].filter(Boolean).join("\n");
  return `${imports}\n\nresponse = httpx.${method.toLowerCase()}(\n    ${given.join(",\n    ")},\n)\n`
    + `response.raise_for_status()\n${last}`;
}

const fileName = (number, count) => (count > 1 ? `image-${number}.png` : "image.png");

/** Button that shows the code of a call; `call` gives it, `image` an uploaded PNG that can be saved with it. */
export function codeButton(subject, call, image) {
  return h("button", {
    type: "button", className: "icon-button", title: "Copy as curl or Python", "aria-haspopup": "dialog",
    "aria-label": `Code for ${subject}`, onclick: () => show(subject, call(), image?.()),
  }, "</>");
}

function show(subject, call, image) {
  const dialog = $("dialog");
  const block = (name, text) => [
    h("div", { className: "code-head" }, h("h3", null, name), copyButton(name, text)),
    h("pre", { tabIndex: 0, "aria-label": name }, text),
  ];
  dialog.replaceChildren(
    h("div", { className: "dialog-head" }, h("h2", { id: "dialog-title" }, `Code for ${subject}`), closeButton(dialog)),
    ...block("curl", asCurl(call)),
    ...block("Python", asPython(call)),
    call.files ? h("p", { className: "note" }, call.files > 1 ? "Both images are files beside it. " : "The image is the file image.png beside it. ",
      image && h("button", { type: "button", onclick: async () => save(await image, "image.png") }, "Save image.png")) : "",
  );
  dialog.showModal();
}

function copyButton(name, text) {
  const button = h("button", {
    type: "button", "aria-label": `Copy ${name}`,
    onclick: async () => {
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        selectText(button.parentElement.nextElementSibling);
        return;
      }
      button.textContent = "Copied";
      announce(`${name} copied`);
    },
  }, "Copy");
  return button;
}

/** Select a text for the user to copy, where the page may not write to the clipboard. */
function selectText(element) {
  getSelection().selectAllChildren(element);
  announce("Selected; press Control and C to copy");
}

export const closeButton = (dialog) => h("button", {
  type: "button", className: "icon-button", "aria-label": "Close", onclick: () => dialog.close(),
}, "✕");
