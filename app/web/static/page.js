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

export function formatNumber(value) {
  return number.format(value);
}

/** Say something at the top of the page; nothing takes the notice away. */
export function notice(text, kind = "problem") {
  const place = document.getElementById("notice");
  if (place.textContent !== text) {
    place.textContent = text;
    place.className = text ? kind : "";
  }
}

/** A new element: attributes by name, then its children. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Wait, but not longer than the signal. */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

/** Put a copy button before each text of this selector. */
export function addCopyButtons(selector) {
  for (const text of document.querySelectorAll(selector)) {
    const button = make("button", { type: "button", class: "copy" }, t("copy"));
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = t("copied");
      setTimeout(() => (button.textContent = t("copy")), 2000);
    });
    text.parentElement.before(button);
  }
}
