// Draw: the picture follows the form; each digit of it can be opened.

import { ask, askJson, explain, persist } from "./api.js";
import { addCopyButtons, data, lang, make, nameArch, notice, t } from "./page.js";

const GUTTER = 2; // pixels between the images of a grid
const SIDE = 28; // pixels of an image
const CHANGE_MILLISECONDS = 250; // after the last key, before the form is read

const find = (id) => document.getElementById(id);
const form = find("order");
const picture = find("picture");

let shown = null; // the query of the picture, with its version and seed
let drawing = new AbortController();
let timer = 0;

/** The query that the form asks for. */
const readForm = () => new URLSearchParams([...new FormData(form)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value));

async function draw() {
  clearTimeout(timer);
  drawing.abort();
  if (!form.reportValidity()) return;
  drawing = new AbortController();
  const { signal } = drawing;
  const query = readForm();
  find("sheet").setAttribute("aria-busy", "true");
  try {
    const answer = await persist(() => ask(`generate?${query}`, { headers: { Accept: "image/png" }, signal }), signal);
    const blob = await answer.blob();
    query.set("version", answer.headers.get("X-Version"));
    query.set("seed", answer.headers.get("X-Seed"));
    form.elements.seed.value = query.get("seed");
    notice("");
    await show(query, URL.createObjectURL(blob));
  } catch (error) {
    if (error.name !== "AbortError") notice(explain(error));
  } finally {
    if (!signal.aborted) find("sheet").removeAttribute("aria-busy");
  }
}

/** Put a picture in place of the one before, with everything that is said of it. */
async function show(query, source) {
  const before = picture.src;
  picture.removeAttribute("width"); // of the picture before
  picture.removeAttribute("height");
  picture.src = source;
  await picture.decode();
  if (before.startsWith("blob:")) URL.revokeObjectURL(before);
  describe(query);
  history.replaceState(null, "", `./?${readForm()}`);
}

function describe(query) {
  shown = query;
  const n = query.get("n");
  const text = t("described", { n, name: nameArch(query.get("arch")), version: query.get("version"), seed: query.get("seed") });
  picture.alt = text;
  find("caption").textContent = text;
  find("sheet").hidden = false;
  document.querySelectorAll(".result .problem").forEach((one) => one.remove());
  find("link").href = `./?${query}`;
  find("save").href = picture.src;
  const address = new URL(`generate?${query}`, document.baseURI).href;
  for (const [kind, template] of Object.entries(data.code)) {
    const place = find(`code-${kind}`);
    if (place) place.textContent = template.replace("{address}", address);
  }
  coverWithButtons();
}

/** A button over each image of the grid. One of them is in the tab order; arrow keys reach the others. */
function coverWithButtons() {
  const n = Number(shown.get("n"));
  const scale = Number(shown.get("scale") ?? 1);
  const isLine = shown.has("text");
  const columns = isLine ? 1 : Math.min(Math.ceil(Math.sqrt(n)), n);
  const [width, height] = [picture.naturalWidth, picture.naturalHeight];
  const [wide, high] = [isLine ? width : SIDE * scale, SIDE * scale];
  const cells = make("div", { class: "cells" });
  for (let i = 0; i < n; i++) {
    const cell = make("button", { type: "button", tabindex: i ? -1 : 0, "aria-label": t("cell", { number: i + 1 }), "data-number": i });
    cell.style.left = `${((i % columns) * (wide + GUTTER) * 100) / width}%`;
    cell.style.top = `${(Math.floor(i / columns) * (high + GUTTER) * 100) / height}%`;
    cell.style.width = `${(wide * 100) / width}%`;
    cell.style.height = `${(high * 100) / height}%`;
    cells.append(cell);
  }
  cells.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const next = step && cells.children[Number(event.target.dataset.number) + step];
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  cells.addEventListener("click", (event) => {
    if (event.target.dataset.number) openDigit(Number(event.target.dataset.number));
  });
  find("frame").querySelector(".cells")?.remove();
  find("frame").append(cells);
}

/** What is known of one image of the picture: its seeds, what they are, and itself. */
async function askForImage(number) {
  const query = new URLSearchParams(shown);
  const isChosen = ["digit", "text"].some((name) => query.has(name));
  if (!isChosen) {
    query.set("seed", Number(query.get("seed")) + number);
    query.set("n", 1);
  }
  query.set("scale", 8);
  const answer = await askJson(`generate?${query}`);
  return answer.images[isChosen ? number : 0];
}

async function openDigit(number) {
  const dialog = find("digit");
  try {
    const image = await askForImage(number);
    const digits = image.digits ?? [image];
    const { arch, version } = Object.fromEntries(shown);
    const first = digits[0].seed;
    const here = new URLSearchParams({ arch, version });
    const source = `data:image/png;base64,${image.png}`;
    const percent = new Intl.NumberFormat(lang, { style: "percent", maximumFractionDigits: 1, roundingMode: "floor" });
    const rows = digits.map(({ seed, digit, confidence }) =>
      make("tr", {}, make("td", {}, String(seed)), make("td", {}, String(digit)), make("td", {}, percent.format(confidence))));
    const head = make("tr", {}, ...["seed", "digit", "confidence"].map((name) => make("th", { scope: "col" }, t(name))));
    dialog.replaceChildren(
      make("h2", { id: "digit-title" }, t("cell", { number: number + 1 })),
      make("img", { class: "pixels large", src: source, alt: digits.map(({ digit }) => digit).join("") }),
      make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)),
      make("p", { class: "hint" }, t("unsure")),
    );
    if (digits.length === 1) {
      dialog.append(make("figure", {}, make("figcaption", {}, t("neighbours")),
        make("img", { class: "pixels", src: `neighbours.png?${here}&seed=${first}&scale=3`, alt: t("neighbours"), width: 256, height: 256 })));
    }
    const close = make("button", { type: "button", class: "primary" }, t("close"));
    close.addEventListener("click", () => dialog.close());
    dialog.append(make("p", { class: "buttons" }, close,
      make("a", { href: source, download: `${arch}-v${version}-seed${first}.png` }, t("save")),
      make("a", { href: `./?${here}&seed=${first}` }, t("from_here")),
      make("a", { href: `morph?${here}&from=${first}` }, t("morph_from"))));
    dialog.showModal();
  } catch (error) {
    notice(explain(error));
  }
}

function listVersions() {
  const chosen = form.elements.version;
  const versions = data.versions[form.elements.arch.value] ?? [];
  [...chosen.options].slice(2).forEach((option) => option.remove());
  chosen.append(...versions.map(({ version, label }) => make("option", { value: version }, label)));
  chosen.value = "";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  // A seed that has a place in the index of digits, so that it serves any digit, too.
  if (event.submitter?.name === "again") form.elements.seed.value = Math.floor(Math.random() * data.seeds);
  draw();
});
form.addEventListener("change", ({ target }) => {
  if (target.name === "arch") listVersions();
  if (target.name === "digit") form.elements.text.value = "";
  if (target.name !== "text") draw();
});
form.addEventListener("input", ({ target }) => {
  if (target.name === "text") {
    if (target.value) form.querySelector('[name=digit][value=""]').checked = true;
    form.elements.n.value = target.value ? 1 : 16;
  }
  clearTimeout(timer);
  if (target.matches("input:not([type=radio])")) timer = setTimeout(draw, CHANGE_MILLISECONDS);
});
find("digit").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) event.target.close(); // beside the dialog's content
});

addCopyButtons(".code code");
const asked = picture.getAttribute("src");
if (asked) {
  picture.decode().then(() => describe(new URLSearchParams(asked.split("?")[1])), () => draw());
}
