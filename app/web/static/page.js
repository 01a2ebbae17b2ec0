// What every view shares: its strings, the notice at the top, numbers, and small helpers for elements.

export const { lang, strings, archs, data } = JSON.parse(document.getElementById("page").textContent);

document.documentElement.classList.add("scripted"); // shows what needs scripts

const number = new Intl.NumberFormat(lang, { maximumSignificantDigits: 4 });

/** The string of this name, with its fields in braces filled in. */
export function t(name, fields = {}) {
  return strings[name].replace(/\{(\w+)\}/g, (_, field) => fields[field] ?? "");
}

export function nameArch(arch) {
  return archs[arch].name;
}

export const find = (id) => document.getElementById(id);

/** The fields of a form that are filled in, as pairs of name and value. */
export function readForm(form) {
  return [...new FormData(form)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value);
}

/** A function that gives a signal for each try of something. The next try aborts the one before. */
export function makeSignals() {
  let trying = new AbortController();
  return () => {
    trying.abort();
    trying = new AbortController();
    return trying.signal;
  };
}

/** Show times of a document as those of this device. */
export function showLocalTimes(root) {
  const format = new Intl.DateTimeFormat(lang, { dateStyle: "short", timeStyle: "short" });
  for (const time of root.querySelectorAll("time")) time.textContent = format.format(new Date(time.dateTime));
}

export function formatNumber(value) {
  return number.format(value);
}

const notices = new Map(); // what asks → what it has to say

/** Say at the top of the page what ``who`` meets; nothing takes it away. The newest notice is shown. */
export function notice(who, text, kind = "problem") {
  notices.delete(who);
  if (text) notices.set(who, { text, kind });
  const newest = [...notices.values()].at(-1) ?? { text: "", kind: "" };
  const place = find("notice");
  if (place.textContent !== newest.text) place.textContent = newest.text;
  place.className = newest.kind;
}

/** Take back a notice, unless something else has been said since. */
export function withdraw(who, text) {
  if (notices.get(who)?.text === text) notice(who, "");
}

/** A new element: attributes by name, then its children. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Copy the text of an element; gives whether it could. Only pages of https and of this machine have a clipboard; elsewhere it is selected, too. */
async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
  return true;
}

/** Put a copy button before each text of this selector. */
export function addCopyButtons(selector) {
  for (const text of document.querySelectorAll(selector)) {
    const button = make("button", { type: "button", class: "copy" }, t("copy"));
    button.addEventListener("click", async () => {
      if (!(await copy(text))) return; // it is selected, at least
      button.textContent = t("copied");
      setTimeout(() => (button.textContent = t("copy")), 2000);
    });
    text.parentElement.before(button);
  }
}

showLocalTimes(document);

// The cookie has the language now. In the address it would be chosen again each time the view is fetched.
const here = new URL(location.href);
if (here.searchParams.has("lang") && /(^|; )lang=/.test(document.cookie)) {
  here.searchParams.delete("lang");
  history.replaceState(null, "", here);
}

// Another language, with what is shown and typed now.
for (const link of document.querySelectorAll(".languages a")) {
  link.addEventListener("click", (event) => {
    const query = new URLSearchParams(location.search);
    const form = find("order");
    for (const [name, value] of form ? new FormData(form) : []) query.set(name, value);
    query.set("lang", link.lang);
    link.href = `?${query}`;
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // in another tab
    event.preventDefault();
    location.replace(link.href); // so that "back" leads to another view
  });
}
