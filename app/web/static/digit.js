// What is known of one digit, or of each digit of a number: its seed, value, confidence and neighbours.

import { find, lang, make, t } from "./page.js";

const dialog = find("digit");
const percent = new Intl.NumberFormat(lang, { style: "percent", maximumFractionDigits: 1, roundingMode: "floor" });

/**
 * Show image ``number`` of a picture. ``image`` is what the API says of it, ``query`` what was asked for with its version.
 * Of a number, the digit is chosen that is ``share`` of the way from its left end, 0…1.
 */
export function showDigit(query, number, image, share) {
  const digits = image.digits ?? [image];
  const { arch, version } = Object.fromEntries(query);
  const drawer = new URLSearchParams({ arch, version });
  const neighbours = make("img", { class: "pixels", width: 256, height: 256 });
  const fromHere = make("a", {}, t("from_here"));
  const morph = make("a", {}, t("morph_from"));
  const buttons = digits.map(({ seed }) => make("button", { type: "button", "aria-label": t("neighbours_of", { seed }) }, String(seed)));

  function choose(chosen) {
    const { seed } = digits[chosen];
    neighbours.src = `neighbours.png?${drawer}&seed=${seed}&scale=3`;
    neighbours.alt = t("neighbours_of", { seed });
    fromHere.href = `./?${drawer}&seed=${seed}`;
    morph.href = `morph?${drawer}&from=${seed}`;
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === chosen)));
  }

  buttons.forEach((button, i) => button.addEventListener("click", () => choose(i)));
  choose(Math.min(Math.floor(share * digits.length), digits.length - 1));
  const rows = digits.map(({ seed, digit, confidence }, i) => {
    const cells = [image.digits ? buttons[i] : String(seed), String(digit), percent.format(confidence)];
    return make("tr", {}, ...cells.map((cell) => make("td", {}, cell)));
  });
  const head = make("tr", {}, ...["seed", "digit", "confidence"].map((name) => make("th", { scope: "col" }, t(name))));
  const source = image.digits ? `data:image/png;base64,${image.png}` : `generate?${drawer}&seed=${image.seed}&n=1&scale=8`;
  const close = make("button", { type: "button", class: "primary" }, t("close"));
  close.addEventListener("click", () => dialog.close());
  dialog.replaceChildren(
    make("h2", { id: "digit-title" }, t("cell", { number: number + 1 })),
    make("div", { class: image.digits ? "seen number" : "seen" },
      make("img", { class: "pixels", src: source, alt: digits.map(({ digit }) => digit).join("") }),
      make("figure", {}, neighbours, make("figcaption", {}, t("neighbours")))),
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)),
    make("p", { class: "hint" }, t("read")),
    make("p", { class: "buttons" }, close,
      make("a", { href: source, download: `${arch}-v${version}-seed${digits[0].seed}.png` }, t("save")), fromHere, morph),
  );
  if (!dialog.open) dialog.showModal();
}

dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // beside its content
});
