// Draw: the picture follows the form; each digit of it can be opened.

import { ask, askJson, persist } from "./api.js";
import { addCopyButtons, data, find, lang, make, makeSignals, nameArch, readForm, t } from "./page.js";

const GUTTER = 2; // pixels between the images of a grid
const SIDE = 28; // pixels of an image
const CHANGE_MILLISECONDS = 250; // after the last key, before the form is read

const form = find("order");
const picture = find("picture");

let shown = null; // the query of the picture, with its version and seed
let chosen = null; // {query, images}: what is known of its images, if they were chosen by value; asked for once
let timer = 0;
let count = form.elements.text.value ? data.n : ""; // what n was before a number was written

const startDrawing = makeSignals();
const startOpening = makeSignals();

const isByValue = (query) => ["digit", "text"].some((name) => query.has(name));

/** A seed that has a place in the index of digits, so that it serves any digit, too. */
const chooseSeed = () => (form.elements.seed.value = Math.floor(Math.random() * data.seeds));

async function draw() {
  clearTimeout(timer);
  const signal = startDrawing();
  find("sheet").removeAttribute("aria-busy");
  if (!form.checkValidity()) return; // the browser says why when the form is sent
  if (!form.elements.seed.value) chooseSeed();
  const query = new URLSearchParams(readForm(form));
  if (isByValue(query) && Number(query.get("seed")) >= data.seeds) query.set("seed", chooseSeed());
  find("sheet").setAttribute("aria-busy", "true");
  const answer = await persist("draw", () => ask(`generate?${query}`, { headers: { Accept: "image/png" }, signal }), signal);
  if (answer) {
    query.set("version", answer.headers.get("X-Version"));
    await show(query, URL.createObjectURL(await answer.blob()), signal);
  }
  if (!signal.aborted) find("sheet").removeAttribute("aria-busy");
}

/** Put a picture in place of the one before, with everything that is said of it. */
async function show(query, source, signal) {
  const loaded = make("img", { src: source });
  await loaded.decode();
  if (signal.aborted) {
    URL.revokeObjectURL(source);
    return;
  }
  if (picture.src.startsWith("blob:")) URL.revokeObjectURL(picture.src);
  picture.width = loaded.naturalWidth;
  picture.height = loaded.naturalHeight;
  picture.src = source;
  document.querySelectorAll(".result .problem").forEach((one) => one.remove());
  describe(query, loaded);
  history.replaceState(null, "", `./?${new URLSearchParams(readForm(form))}`);
}

/** Say what is shown. ``loaded`` has the size of the picture. */
function describe(query, loaded) {
  shown = query;
  const n = query.get("n");
  const text = t("described", { n, name: nameArch(query.get("arch")), version: query.get("version"), seed: query.get("seed") });
  picture.alt = text;
  find("caption").textContent = text;
  find("sheet").hidden = false;
  find("link").href = `./?${query}`;
  find("save").href = picture.src;
  const address = new URL(`generate?${query}`, document.baseURI).href;
  for (const [kind, template] of Object.entries(data.code)) {
    const place = find(`code-${kind}`);
    if (place) place.textContent = template.replace("{address}", address);
  }
  coverWithButtons(loaded.naturalWidth, loaded.naturalHeight);
}

/** A button over each image of the grid. One of them is in the tab order; arrow keys reach the others. */
function coverWithButtons(width, height) {
  const n = Number(shown.get("n"));
  const scale = Number(shown.get("scale") ?? 1);
  const isLine = shown.has("text");
  const columns = isLine ? 1 : Math.min(Math.ceil(Math.sqrt(n)), n);
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

/** What is known of one image of a picture: its seeds, and what they are. */
async function askForImage(query, number, signal) {
  const asked = new URLSearchParams(query);
  asked.set("scale", query.has("text") ? 4 : 1);
  if (isByValue(query)) {
    if (chosen?.query !== query) chosen = { query, images: (await askJson(`generate?${asked}`, { signal })).images };
    return chosen.images[number];
  }
  asked.set("seed", Number(query.get("seed")) + number);
  asked.set("n", 1);
  return (await askJson(`generate?${asked}`, { signal })).images[0];
}

async function openDigit(number) {
  const signal = startOpening();
  const query = shown;
  const image = await persist("digit", () => askForImage(query, number, signal), signal);
  if (!image) return;
  const digits = image.digits ?? [image];
  const first = digits[0].seed;
  const { arch, version } = Object.fromEntries(query);
  const here = new URLSearchParams({ arch, version });
  const source = image.digits ? `data:image/png;base64,${image.png}` : `generate?${here}&seed=${first}&n=1&scale=8`;
  const percent = new Intl.NumberFormat(lang, { style: "percent", maximumFractionDigits: 1, roundingMode: "floor" });
  const rows = digits.map(({ seed, digit, confidence }) =>
    make("tr", {}, make("td", {}, String(seed)), make("td", {}, String(digit)), make("td", {}, percent.format(confidence))));
  const head = make("tr", {}, ...["seed", "digit", "confidence"].map((name) => make("th", { scope: "col" }, t(name))));
  const close = make("button", { type: "button", class: "primary" }, t("close"));
  const dialog = find("digit");
  close.addEventListener("click", () => dialog.close());
  dialog.replaceChildren(
    make("h2", { id: "digit-title" }, t("cell", { number: number + 1 })),
    make("img", { class: "pixels large", src: source, alt: digits.map(({ digit }) => digit).join("") }),
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)),
    make("p", { class: "hint" }, t("read")),
    ...(image.digits ? [] : [make("figure", {}, make("figcaption", {}, t("neighbours")),
      make("img", { class: "pixels", src: `neighbours.png?${here}&seed=${first}&scale=3`, alt: t("neighbours"), width: 256, height: 256 }))]),
    make("p", { class: "buttons" }, close,
      make("a", { href: source, download: `${arch}-v${version}-seed${first}.png` }, t("save")),
      make("a", { href: `./?${here}&seed=${first}` }, t("from_here")),
      make("a", { href: `morph?${here}&from=${first}` }, t("morph_from"))),
  );
  if (!dialog.open) dialog.showModal();
}

function listVersions() {
  const menu = form.elements.version;
  const versions = data.versions[form.elements.arch.value] ?? [];
  [...menu.options].slice(2).forEach((option) => option.remove());
  menu.append(...versions.map(({ version, label }) => make("option", { value: version }, label)));
  menu.value = "";
}

/** A number that is written is one line, unless someone wants more; without it, there are as many digits as before. */
function switchToText(isText) {
  if (isText === (count !== "")) return;
  const { n } = form.elements;
  [n.value, count] = isText ? [1, n.value] : [count, ""];
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.submitter?.name === "again") chooseSeed();
  draw();
});
form.addEventListener("change", ({ target }) => {
  if (target.name === "arch") listVersions();
  if (target.name === "digit") {
    form.elements.text.value = "";
    switchToText(false);
  }
  if (target.matches("select, [type=radio]")) draw();
});
form.addEventListener("input", ({ target }) => {
  if (!target.matches("input:not([type=radio])")) return;
  if (target.name === "text") {
    switchToText(target.value !== "");
    if (target.value) form.querySelector('[name=digit][value=""]').checked = true;
  }
  clearTimeout(timer);
  if (target.value || target.name === "text") timer = setTimeout(draw, CHANGE_MILLISECONDS);
});
find("digit").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) event.target.close(); // beside the dialog's content
});

addCopyButtons(".code code");
const asked = picture.getAttribute("src");
if (asked) {
  const query = new URLSearchParams(asked.split("?")[1]);
  picture.decode().then(() => describe(query, picture), draw);
}
