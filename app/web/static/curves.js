// Line charts by epoch, drawn as SVG.

import { formatNumber, make, t } from "./page.js";

const [WIDTH, HEIGHT] = matchMedia("(max-width: 52rem)").matches ? [320, 190] : [520, 190];
const [LEFT, RIGHT, TOP, BOTTOM] = [58, 16, 10, 30]; // margins
const TICKS = 4;
const NEAR = 0.1; // of the width: labels of epochs are not nearer to each other

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
 * ``floor`` is the value of real images, ``last`` the last epoch of all charts, ``cursor`` the one shown beside them.
 */
export function drawChart({ title, unit = "", lines, floor }, last, cursor) {
  const points = lines.flatMap(({ values }) => [...values]);
  const heights = [...points.map(([, value]) => value), ...(floor === undefined ? [] : [floor])];
  const ticks = findTicks(Math.min(...heights), Math.max(...heights));
  const [low, high] = [ticks[0], ticks.at(-1)];
  const x = (epoch) => LEFT + ((epoch - 1) / (last - 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const newest = Math.max(...points.map(([epoch]) => epoch));
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": t("chart", { title, epoch: newest }) });
  for (const tick of ticks) {
    svg.append(draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }));
    svg.append(draw("text", { class: "tick", x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, formatNumber(tick)));
  }
  svg.append(draw("text", { class: "tick", x: LEFT - 8, y: HEIGHT - 8, "text-anchor": "end" }, t("epoch")));
  const between = findTicks(1, last).filter((one) => Number.isInteger(one) && Math.min(one - 1, last - one) > NEAR * (last - 1));
  for (const epoch of [1, ...between, last]) {
    svg.append(draw("text", { class: "tick", x: x(epoch), y: HEIGHT - 8, "text-anchor": "middle" }, String(epoch)));
  }
  if (floor !== undefined) svg.append(draw("line", { class: "floor", x1: LEFT, x2: WIDTH - RIGHT, y1: y(floor), y2: y(floor) }));
  if (cursor) svg.append(draw("line", { class: "cursor", x1: x(cursor), x2: x(cursor), y1: TOP, y2: HEIGHT - BOTTOM }));
  const legend = make("figcaption", {}, make("b", {}, title), unit ? make("small", {}, ` ${unit}`) : "");
  lines.forEach(({ name, values }, i) => {
    const sorted = [...values].sort(([one], [other]) => one - other);
    svg.append(draw("polyline", { class: `line line-${i}`, points: sorted.map(([epoch, value]) => `${x(epoch)},${y(value)}`).join(" ") }));
    if (sorted.length < 30) for (const [epoch, value] of sorted) svg.append(draw("circle", { class: `dot line-${i}`, cx: x(epoch), cy: y(value), r: 2.5 }));
    const value = sorted.findLast(([epoch]) => !cursor || epoch <= cursor)?.[1]; // metrics are not of every epoch
    legend.append(make("span", { class: `key line-${i}` }, `${name} `, value === undefined ? "–" : formatNumber(value)));
  });
  if (floor !== undefined) legend.append(make("span", { class: "key floor" }, `${t("floor")} `, formatNumber(floor)));
  return make("figure", { class: "chart" }, legend, svg);
}
