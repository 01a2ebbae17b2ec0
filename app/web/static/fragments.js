// Parts of a view that the server draws anew: they are fetched, and put in place where they have changed.

import { read } from "./api.js";
import { find, lang, showLocalTimes } from "./page.js";

/** Fetch this view again and replace the elements with these ids, and in them only what differs. */
export async function refresh(ids) {
  const [text] = await read("text", location.href);
  const fresh = new DOMParser().parseFromString(text, "text/html");
  if (fresh.documentElement.lang !== lang) return location.reload(); // another window has chosen another language
  showLocalTimes(fresh);
  for (const id of ids) {
    const after = fresh.getElementById(id);
    if (after) update(find(id), after);
  }
}

/** Make ``before`` like ``after``. What stays keeps its place in the document, so it keeps the focus, too. */
function update(before, after) {
  if (before.nodeType !== Node.ELEMENT_NODE) {
    before.nodeValue = after.nodeValue;
    return;
  }
  if (before.outerHTML === after.outerHTML) return;
  for (const { name } of [...before.attributes]) if (!after.hasAttribute(name)) before.removeAttribute(name);
  for (const { name, value } of after.attributes) before.setAttribute(name, value);
  const staying = new Set([...after.children].map(({ id }) => id));
  [...after.childNodes].forEach((node, i) => {
    const at = before.childNodes[i] ?? null;
    const same = node.id ? [...before.children].find(({ id }) => id === node.id) : at;
    if (same?.nodeName !== node.nodeName || same.id !== node.id) {
      before.insertBefore(document.importNode(node, true), at);
      return;
    }
    // What goes is taken away first, for an element that is moved loses the focus.
    while (before.childNodes[i] !== same && !staying.has(before.childNodes[i].id)) before.childNodes[i].remove();
    if (before.childNodes[i] !== same) before.insertBefore(same, before.childNodes[i]);
    update(same, node);
  });
  while (before.childNodes.length > after.childNodes.length) before.lastChild.remove();
}
