"use strict";
/* The sliders of a report. What the data says is only ever set as text: no markup is made of it. */
const data = JSON.parse(document.getElementById("data").textContent);
const bytes = text => Uint8Array.from(atob(text), character => character.charCodeAt(0)).buffer;
const values = new (data.wide ? Float64Array : Float32Array)(bytes(data.values));
const chances = new Float64Array(bytes(data.chances));
const rest = new Uint8Array(bytes(data.rest));
const duplicate = new Uint8Array(bytes(data.duplicate));
const rows = chances.length;
const columns = new Map(data.columns.map(column => [column.place, column]));
const byId = id => document.getElementById(id);
const A_SIDE = 50; // pictures
const BINS = 60;

/* The thresholds: by column the least value that passes and the least that does not; null for none. */
const initial = () => new Map(data.columns.map(column => [column.place, [column.least, column.below]]));
let bounds = initial();

const inside = (value, [least, below]) =>
  (least === null && below === null) || ((least === null || value >= least) && (below === null || value < below));

/* Whether a sample passes what no slider stands for, as far as it is ticked: other rules, and that it is no duplicate. */
const passesTicked = (rest, duplicate) => (rest || !checked("rest")) && !(duplicate && checked("duplicates"));

function passes(row) {
  for (const [place, bound] of bounds) if (!inside(values[place * rows + row], bound)) return false;
  return passesTicked(rest[row], duplicate[row]);
}

function checked(id) {
  return byId(id) !== null && byId(id).checked;
}

/* How many of all samples pass, and the error: 1.96 standard errors of a ratio of sums weighted by 1 / chance. Where none or
   all of those that were drawn pass, that would be none; then three samples more or less (the rule of three). */
function estimate(flags) {
  let weight = 0, kept = 0, squares = 0;
  for (let row = 0; row < rows; row++) {
    const one = 1 / chances[row];
    weight += one;
    squares += one * one;
    if (flags[row]) kept += one;
  }
  if (!rows) return { kept: 0, error: 0 };
  const part = kept / weight;
  let variance = 0;
  for (let row = 0; row < rows; row++) {
    const off = (flags[row] ? 1 : 0) - part;
    variance += (1 - chances[row]) / chances[row] ** 2 * off * off;
  }
  const census = chances.every(chance => chance === 1), onlyOne = kept === 0 || kept === weight;
  const error = onlyOne && !census ? 3 * squares / weight ** 2 : 1.96 * Math.sqrt(variance) / weight;
  return { kept: part * data.total, error: data.total * error };
}

const whole = number => Math.round(number).toLocaleString("en");
const digits = number => Number(number.toPrecision(2));

function told(found) {
  const share = data.total ? 100 * found.kept / data.total : 0;
  const percent = `${share > 0 && share < 0.1 ? share.toPrecision(2) : share.toFixed(1)}\u00a0%`;
  if (found.error === 0) return `${whole(found.kept)} of ${whole(data.total)} ${data.total === 1 ? "sample" : "samples"} ${found.kept === 1 || data.total === 1 ? "is" : "are"} kept (${percent}).`;
  return `About ${whole(found.kept)} of ${whole(data.total)} samples are kept (${percent}), give or take ${whole(digits(found.error))}.`;
}

const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;

/* A rule such as `entropy > 4` has the next number above 4 as its bound: 4, and whether the bound is just above it. */
function said(bound) {
  const near = Math.abs(bound) < 1e-300 ? 0 : Number(bound.toPrecision(12));
  const above = bound > near && bound - near <= 4e-16 * Math.abs(near) + 1e-300;
  return [above ? near : bound, above];
}

/* The command that selects by these thresholds. */
function command() {
  const words = [data.command], keep = [];
  for (const [place, bound] of bounds) {
    const column = columns.get(place);
    bound.forEach((value, end) => {
      if (value === null) return;
      const [number, above] = said(column.unit ? Math.ceil(value) : value);
      if (column.options[end] && !above) words.push(`--${column.options[end]} ${number}`);
      else keep.push(`${column.name} ${end ? (above ? "<=" : "<") : (above ? ">" : ">=")} ${number}`);
    });
  }
  if (checked("rest")) keep.push(...data.keep.map(text => data.keep.length + keep.length > 1 ? `(${text})` : text));
  if (keep.length) words.push(`--keep ${quoted(keep.join(" and "))}`);
  return words.join(" ") + (checked("duplicates") ? data.duplicates : "") + " --output selected/";
}

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter(child => child !== null));
  return made;
}

const fewer = number => Math.abs(number) < 1e4 ? String(Number(number.toPrecision(4))) : whole(number);

/* The picture of a sample, or why there is none. Those that the page shows anyway are not in the data once more. */
function picture(number) {
  const sample = data.pictures[number];
  const shown = document.querySelector(`img[data-picture="${number}"]`);
  const source = sample.picture || (shown && shown.src);
  if (!source) return make("span", { class: "missing" }, sample.problem);
  const image = make("img", { src: source, alt: `Sample: ${sample.caption || sample.key}`, width: sample.sides[0], height: sample.sides[1] });
  image.dataset.picture = number;
  if (sample.blurred) image.className = "blurred";
  return image;
}

const passesPicture = sample => passesTicked(sample.rest, sample.duplicate) && data.columns.every((column, at) => {
  const value = sample.values[at];
  return inside(value === null ? NaN : value, bounds.get(column.place));
});

function figure(number, at) {
  const sample = data.pictures[number], value = sample.values[at];
  const frame = make("button", { type: "button", class: "frame", "aria-label": `Enlarge ${sample.key}` }, picture(number));
  return make("figure", {}, frame, make("figcaption", {},
    make("b", {}, value === null ? "no value" : `${data.columns[at].name}\u00a0${fewer(value)}`),
    make("bdi", { class: "name", dir: "auto" }, sample.key),
    sample.caption ? make("bdi", { class: "text", dir: "auto" }, sample.caption) : null));
}

function gallery(title, numbers, at) {
  const figures = make("div", { class: "figures" }, ...numbers.slice(0, A_SIDE).map(number => figure(number, at)));
  const shown = numbers.length > A_SIDE ? `${A_SIDE} of ${whole(numbers.length)}` : numbers.length;
  const heading = `${title}: ${shown} ${numbers.length === 1 ? "picture" : "pictures"}`;
  return make("div", { class: "gallery" }, make("h3", {}, heading), numbers.length ? figures : make("p", { class: "quiet" }, "No sample with a picture is on this side."));
}

function showPictures() {
  const place = Number(byId("by").value), at = data.columns.findIndex(column => column.place === place);
  const value = number => data.pictures[number].values[at];
  const bound = bounds.get(place), edge = bound[0] === null ? bound[1] : bound[0];
  const sign = byId("order").value === "up" ? 1 : -1, view = byId("view").value;
  const sides = [[], []];
  data.pictures.forEach((sample, number) => sides[passesPicture(sample) ? 1 : 0].push(number));
  const distance = view === "border" && edge !== null ? number => Math.abs(value(number) - edge) : number => sign * value(number);
  const last = number => value(number) === null ? Infinity : distance(number);
  for (const side of sides) side.sort((one, two) => last(one) - last(two) || one - two);
  const galleries = [gallery("Rejected", sides[0], at), gallery("Kept", sides[1], at)];
  byId("sides").classList.toggle("one", !sides[0].length || !sides[1].length || view !== "border");
  byId("sides").replaceChildren(...galleries.filter((_, side) => view === "border" || view === ["rejected", "kept"][side]));
}

/* A small histogram of each column: how many pass all thresholds, and how many do not. */
function drawHistogram(field, flags) {
  const column = columns.get(Number(field.dataset.column)), range = column.high - column.low || 1;
  const drawing = field.querySelector("svg");
  const sums = [new Float64Array(BINS), new Float64Array(BINS)];
  for (let row = 0; row < rows; row++) {
    const value = values[column.place * rows + row];
    if (Number.isNaN(value)) continue;
    const bin = Math.min(BINS - 1, Math.max(0, Math.floor((value - column.low) / range * BINS)));
    sums[flags[row] ? 1 : 0][bin] += 1 / chances[row];
  }
  const tallest = Math.max(...sums[0].map((sum, bin) => sum + sums[1][bin])) || 1;
  const bars = [];
  for (let bin = 0; bin < BINS; bin++) {
    let bottom = 40;
    for (const kind of [1, 0]) {
      const height = sums[kind][bin] / tallest * 39 + (sums[kind][bin] ? 0.5 : 0);
      if (!height) continue;
      bottom -= height;
      const bar = document.createElementNS(drawing.namespaceURI, "rect");
      for (const [key, at] of Object.entries({ x: bin + 0.05, y: bottom, width: 0.9, height })) bar.setAttribute(key, at);
      bar.setAttribute("class", kind ? "fill-kept" : "fill-rejected");
      bars.push(bar);
    }
  }
  drawing.replaceChildren(...bars);
}

/* Sliders go from the lowest to the highest value; at the end where all pass a threshold is off. */
function setInputs(field) {
  const column = columns.get(Number(field.dataset.column)), bound = bounds.get(column.place), range = column.high - column.low || 1;
  for (const input of field.querySelectorAll("input")) {
    const end = Number(input.dataset.end), value = bound[end];
    if (input.type === "range") input.value = value === null ? 1000 * end : Math.round((value - column.low) / range * 1000);
    else if (document.activeElement !== input) input.value = value === null ? "" : said(value)[0];
  }
}

function rounded(value, column) {
  if (column.unit) return Math.round(value);
  const step = 10 ** Math.floor(Math.log10((column.high - column.low || 1) / 500));
  return Number((Math.round(value / step) * step).toPrecision(12));
}

const fields = [...document.querySelectorAll("fieldset[data-column]")];

function update() {
  const flags = new Uint8Array(rows);
  for (let row = 0; row < rows; row++) flags[row] = passes(row) ? 1 : 0;
  const found = estimate(flags);
  byId("estimate").textContent = told(found);
  byId("part").style.width = `${data.total ? 100 * found.kept / data.total : 0}%`;
  byId("command").textContent = command();
  byId("copy").textContent = "Copy";
  for (const field of fields) { setInputs(field); drawHistogram(field, flags); }
  showPictures();
}

for (const field of fields) {
  field.addEventListener("input", event => {
    const input = event.target, end = Number(input.dataset.end), column = columns.get(Number(field.dataset.column));
    const off = input.type === "range" ? Number(input.value) === 1000 * end : input.value === "";
    const range = column.high - column.low || 1;
    const value = input.type === "range" ? rounded(column.low + input.value / 1000 * range, column) : Number(input.value);
    bounds.get(column.place)[end] = off ? null : value;
    byId("by").value = column.place;
    update();
  });
}
for (const id of ["rest", "duplicates"]) if (byId(id)) byId(id).addEventListener("change", update);
for (const id of ["view", "by", "order"]) byId(id).addEventListener("change", showPictures);
byId("reset").addEventListener("click", () => { bounds = initial(); update(); });

byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(byId("command").textContent);
    byId("copy").textContent = "Copied";
  } catch { // not allowed for a file in some browsers: the text is marked, to be copied by hand
    getSelection().selectAllChildren(byId("command"));
    byId("copy").textContent = "Marked: press Ctrl-C";
  }
});

/* A picture enlarged, with all that is known of its sample. */
function link(text, address) {
  return address ? make("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, text) : make("span", {}, text);
}

function facts(sample) {
  const list = make("dl", {});
  const add = (name, ...value) => list.append(make("dt", {}, name), make("dd", { dir: "auto" }, ...value));
  add("key", sample.key);
  if (sample.caption) add("caption", sample.caption);
  add("verdict of the run", sample.status + (sample.reason ? `: ${sample.reason}` : ""));
  data.columns.forEach((column, at) => { if (sample.values[at] !== null) add(column.name, fewer(sample.values[at])); });
  if (sample.size[0]) add("size", `${sample.size[0]} × ${sample.size[1]}`);
  add("shard", link(sample.shard, sample.shard_link));
  if (sample.url) add("url", link(sample.url, sample.url_link));
  return list;
}

document.addEventListener("click", event => {
  const frame = event.target.closest(".frame"), image = frame && frame.querySelector("img");
  if (!image || byId("large").contains(image)) return;
  const copy = make("img", { src: image.src, alt: image.alt });
  if (image.className) copy.className = image.className;
  const known = image.dataset.picture === undefined ? frame.parentElement.querySelector("figcaption").cloneNode(true) : facts(data.pictures[image.dataset.picture]);
  byId("large").lastElementChild.replaceChildren(make("div", { class: "frame", tabindex: 0 }, copy), known);
  byId("large").showModal();
});
byId("large").addEventListener("click", event => { if (event.target === byId("large")) byId("large").close(); });

byId("choose").hidden = false;
document.documentElement.classList.add("script");
update();
