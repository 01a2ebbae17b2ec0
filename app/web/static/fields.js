// Fields that several forms have: the versions of a generator, and what is wrong with what is typed.

import { data, find, make, t } from "./page.js";

/** Say in the form what is wrong with it. Gives whether it can be sent. */
export function check(form) {
  const typed = [...form.querySelectorAll("input:not([type=radio])")];
  const wrong = typed.filter(({ validity }) => !validity.valid);
  find("mistake").textContent = wrong.map(explain).join(" ");
  for (const field of typed) field.setAttribute("aria-invalid", String(wrong.includes(field)));
  return !wrong.length;
}

function explain({ name, min, max, validity }) {
  const field = data.labels[name];
  if (validity.rangeOverflow) return t("at_most", { field, bound: max });
  if (validity.patternMismatch) return t("only_digits", { field });
  return validity.rangeUnderflow ? t("at_least", { field, bound: min }) : t("whole_number", { field });
}

/** List the versions of the chosen generator. If one of a recipe was chosen before, one of the same recipe is. */
export function listVersions(form) {
  const menu = form.elements.version;
  const { value, dataset: { recipe } } = menu.selectedOptions[0];
  const versions = data.versions[form.elements.arch.value] ?? [];
  [...menu.options].slice(2).forEach((option) => option.remove());
  menu.append(...versions.map((one) => make("option", { value: one.version, "data-recipe": one.recipe }, one.label)));
  const alike = recipe && versions.find((one) => one.recipe === recipe);
  menu.value = alike ? alike.version : value === "latest" ? value : "";
}
