// Watch a job while it trains, or replay a version: curves and pictures by epoch.

import { askJson, explain, persist, Problem } from "./api.js";
import { offerCancel } from "./cancel.js";
import { drawChart } from "./curves.js";
import { follow } from "./follow.js";
import { refresh } from "./fragments.js";
import { data, find, makeSignals, notice, pause, t } from "./page.js";

const LOOK_MILLISECONDS = 2000; // between two looks at the facts of a job
const FRAME_MILLISECONDS = 150; // of the animation
const NEWS_MILLISECONDS = 30_000; // between two epochs that are announced

const slider = find("epoch");
const sample = find("sample");

const startPlaying = makeSignals();

const records = new Map(); // epoch → the record of the epoch
const metrics = new Map(); // epoch → metrics, where they were taken
const pictures = new Map(); // epoch → address of a picture
let isPlaying = false;
let isOver = false;
let announced = -Infinity; // when an epoch was announced
let isDirty = false; // something is to be drawn anew

/** The lines of a chart: their names, and the values of all epochs that have one. */
function list(source, names) {
  return Object.entries(names)
    .map(([field, name]) => ({ name, values: new Map([...source].filter(([, one]) => Number.isFinite(one[field])).map(([epoch, one]) => [epoch, one[field]])) }))
    .filter(({ values }) => values.size);
}

function listCharts() {
  const kind = [...records.values()].at(-1)?.d_output ?? "raw";
  return [
    { title: t("losses"), unit: t("losses_unit"), lines: list(records, { d_loss: t("d_loss"), g_loss: t("g_loss") }) },
    { title: t("verdicts"), unit: t(`verdict_${kind}`), lines: list(records, { d_real: t("d_real"), d_fake: t("d_fake") }) },
    { title: t("emd"), lines: list(metrics, { emd: t("emd_line") }), floor: data.floors.emd },
    { title: t("estimate"), lines: list(records, { estimate: t("estimate_line") }) },
    { title: t("fid"), unit: t("less"), lines: list(metrics, { fid: t("fid_line") }), floor: data.floors.fid },
    { title: t("quality"), unit: t("more"), lines: list(metrics, { precision: t("precision"), recall: t("recall"), class_balance: t("balance") }) },
  ].filter(({ lines }) => lines.length);
}

/** The epochs that have a picture, in order. */
const listShown = () => [...pictures.keys()].sort((one, other) => one - other);

/** The epoch with a picture that is nearest to where the slider stands. */
function findShown() {
  const at = Number(slider.value);
  return listShown().reduce((best, epoch) => (Math.abs(epoch - at) < Math.abs(best - at) ? epoch : best), Infinity);
}

function show() {
  isDirty = false;
  const shown = listShown();
  let epoch = 0; // that is shown
  const followsNewest = slider.disabled || slider.value === slider.max;
  if (shown.length) {
    [slider.min, slider.max] = [shown[0], shown.at(-1)];
    if (followsNewest && !isPlaying) slider.value = slider.max;
    slider.disabled = find("play").disabled = shown.length < 2;
    epoch = findShown();
    find("shown").textContent = t("epoch_of", { epoch, last: Math.max(shown.at(-1), isOver ? 0 : data.epochs) });
    find("waiting")?.remove();
    find("kept").hidden = isOver || !data.job || shown[0] === 1;
    sample.hidden = false;
    sample.alt = t("picture_of", { epoch });
    if (sample.getAttribute("src") !== pictures.get(epoch)) sample.src = pictures.get(epoch);
    slider.setAttribute("aria-valuetext", t("picture_of", { epoch }));
  }
  const last = Math.max(2, ...records.keys());
  find("curves").replaceChildren(...listCharts().map((chart) => drawChart(chart, last, records.has(epoch) ? epoch : 0)));
}

/** Draw once for all that has come until the next frame. */
function showSoon() {
  if (!isDirty) requestAnimationFrame(show);
  isDirty = true;
}

/** Keep the record of an epoch. A critic sees pixels in −1…1, where distances are twice as long: half of its estimate. */
function keepRecord(record) {
  records.set(record.epoch, { ...record, estimate: record.wasserstein / 2 });
}

function take({ event, data: said }) {
  if (!Number.isInteger(said.epoch)) return; // it is of no epoch, or damaged
  if (event === "epoch") {
    for (const kept of [records, metrics, pictures]) for (const epoch of kept.keys()) if (epoch > said.epoch) kept.delete(epoch); // of a lost run
    keepRecord(said);
  }
  if (event === "metric") metrics.set(said.epoch, said);
  if (event === "sample") {
    pictures.set(said.epoch, `data:image/png;base64,${said.png}`);
    announce(said.epoch);
  }
  if (["metric", "sample"].includes(event)) showSoon(); // after an epoch, its picture follows
}

/** Tell those who listen to the page how far it is, now and then. */
function announce(epoch) {
  if (performance.now() - announced < NEWS_MILLISECONDS) return;
  announced = performance.now();
  find("news").textContent = t("picture_of", { epoch });
}

async function watchJob() {
  const look = () => refresh(["heading", "facts", "links"]);
  offerCancel(find("facts"), look);
  keepLooking(look);
  const sayConnection = (problem) => (find("connection").textContent = problem ? (problem.isAway ? t("connecting") : explain(problem)) : "");
  for await (const event of follow(data.job, sayConnection)) {
    take(event);
    if (["started", "published", "ended"].includes(event.event)) look().catch(() => {});
  }
  isOver = true;
  find("waiting")?.remove();
  await persist("job", look);
  const job = await persist("job", () => askJson(`jobs/${data.job}`));
  if (job?.version) await replay(`models/${job.arch}/${job.version}`); // it has all epochs, the events only the newest
}

async function keepLooking(look) {
  while (!isOver) {
    await pause(LOOK_MILLISECONDS);
    if (!document.hidden) await persist("job", look);
  }
}

async function replay(version) {
  const [history, said] = await Promise.all([`${version}/history`, version].map((address) => persist(address, () => askJson(address))));
  if (!history || !said) return; // the notice says why
  if (data.job && said.manifest?.job !== data.job) return; // this service has another model directory than the worker
  for (const record of history) {
    keepRecord(record);
    if (Object.keys(record.metrics ?? {}).length) metrics.set(record.epoch, record.metrics);
  }
  for (let epoch = 1; epoch <= Math.max(1, said.epochs); epoch++) pictures.set(epoch, `${data.source}/samples.png?epoch=${epoch}&scale=2`);
  if (!history.length) find("connection").textContent = t("no_history");
  show();
}

async function play() {
  const signal = startPlaying(); // Pause, and Play again, begin another one
  isPlaying = true;
  find("play").textContent = t("pause");
  if (slider.value === slider.max) {
    slider.value = slider.min;
    await load(pictures.get(findShown()));
    show();
    await pause(FRAME_MILLISECONDS);
    if (signal.aborted) return;
  }
  for (;;) {
    const next = listShown().find((epoch) => epoch > Number(slider.value));
    if (!next) return stop();
    await Promise.all([load(pictures.get(next)), pause(FRAME_MILLISECONDS)]);
    if (signal.aborted) return;
    slider.value = next;
    show();
  }
}

function stop() {
  startPlaying(); // which ends the one before
  isPlaying = false;
  find("play").textContent = t("play");
}

/** Wait until a picture is there, so that the animation does not flicker. */
async function load(source) {
  const image = new Image();
  image.src = source;
  await image.decode().catch(() => {});
}

slider.addEventListener("input", () => {
  stop();
  show();
});
find("play").addEventListener("click", () => (isPlaying ? stop() : play()));
if (!data.job) replay(data.source);
else watchJob().catch((problem) => problem instanceof Problem ? notice("events", explain(problem)) : Promise.reject(problem));
