// Parts of a view that the server draws anew: they are fetched, and put in place where they have changed.

import { ask } from "./api.js";

/** Fetch this view again and replace the elements with these ids, and in them only what differs. */
export async function refresh(ids) {
  const answer = await ask(location.href);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ids) update(document.getElementById(id), fresh.getElementById(id));
}

/** Make ``before`` like ``after``. Elements that stay keep the focus and their listeners. */
function update(before, after) {
  if (!before || !after || before.outerHTML === after.outerHTML) return;
  if (before.nodeName !== after.nodeName || before.id !== after.id || !after.children.length) {
    before.replaceWith(document.adoptNode(after));
    return;
  }
  copyAttributes(before, after);
  const old = [...before.childNodes];
  const fresh = [...after.childNodes].map((node, i) => {
    const same = node.id ? old.find(({ id }) => id === node.id) : old[i];
    if (same?.nodeType !== Node.ELEMENT_NODE || same.nodeName !== node.nodeName || (same.id ?? "") !== (node.id ?? "")) return document.adoptNode(node);
    update(same, node);
    return same.isConnected ? same : document.adoptNode(node);
  });
  if (fresh.length !== before.childNodes.length || fresh.some((node, i) => node !== before.childNodes[i])) before.replaceChildren(...fresh);
}

function copyAttributes(before, after) {
  for (const { name } of [...before.attributes]) if (!after.hasAttribute(name)) before.removeAttribute(name);
  for (const { name, value } of after.attributes) if (before.getAttribute(name) !== value) before.setAttribute(name, value);
}
