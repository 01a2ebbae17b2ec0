// Line charts by epoch, drawn as SVG.

import { formatNumber, make, t } from "./page.js";

const [WIDTH, HEIGHT] = [520, 190];
const [LEFT, RIGHT, TOP, BOTTOM] = [58, 16, 10, 24]; // margins
const TICKS = 4;

const SVG = "http://www.w3.org/2000/svg";

function draw(name, attributes, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

/** Round numbers, two or more: the first one is not above ``low``, the last one not below ``high``. */
function findTicks(low, high) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / TICKS;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const first = Math.floor(low / step);
  const last = Math.max(first + 1, Math.ceil(high / step));
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/**
 * A figure with one chart: {title, unit, lines: [{name, values}]}, where values is a Map from epoch to number.
 * ``cursor`` is the epoch that is shown beside it.
 */
export function drawChart({ title, unit = "", lines }, cursor) {
  const points = lines.flatMap(({ values }) => [...values]);
  const last = Math.max(2, ...points.map(([epoch]) => epoch));
  const ticks = findTicks(Math.min(...points.map(([, value]) => value)), Math.max(...points.map(([, value]) => value)));
  const [low, high] = [ticks[0], ticks.at(-1)];
  const x = (epoch) => LEFT + ((epoch - 1) / (last - 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const newest = Math.max(...points.map(([epoch]) => epoch));
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": t("chart", { title, epoch: newest }) });
  for (const tick of ticks) {
    svg.append(draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }));
    svg.append(draw("text", { class: "tick", x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, formatNumber(tick)));
  }
  for (const epoch of findTicks(1, last).filter((one) => one >= 1 && one <= last && Number.isInteger(one))) {
    svg.append(draw("text", { class: "tick", x: x(epoch), y: HEIGHT - 6, "text-anchor": "middle" }, String(epoch)));
  }
  if (cursor) svg.append(draw("line", { class: "cursor", x1: x(cursor), x2: x(cursor), y1: TOP, y2: HEIGHT - BOTTOM }));
  const legend = make("figcaption", {}, make("b", {}, title), unit ? make("small", {}, ` ${unit}`) : "");
  lines.forEach(({ name, values }, i) => {
    const sorted = [...values].sort(([one], [other]) => one - other);
    svg.append(draw("polyline", { class: `line line-${i}`, points: sorted.map(([epoch, value]) => `${x(epoch)},${y(value)}`).join(" ") }));
    if (sorted.length < 30) for (const [epoch, value] of sorted) svg.append(draw("circle", { class: `dot line-${i}`, cx: x(epoch), cy: y(value), r: 2.5 }));
    const value = values.get(cursor) ?? sorted.at(-1)?.[1];
    legend.append(make("span", { class: `key line-${i}` }, `${name} `, formatNumber(value)));
  });
  return make("figure", { class: "chart" }, legend, svg);
}
