// The scan browser: pictures of the chosen scan, outlines, list, and counts at the chosen score.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const HIT = 0; // the outcome of a candidate from here on is the number of the lesion that it hits
const FALSE_ALARM = -1;
const HOT_SPOTS = 4; // upper level of the second picture, as a multiple of that of the first
const KEPT_PICTURES = 12;
const LEAST_SCALE = 0.75; // of pictures that fit: smaller, a hot spot is a dot
const COLOURS = ["#de340a", "#0072d4"]; // as in the overlays
const TRANSFER = {
  linear: (share) => share,
  sqrt: Math.sqrt,
  log: (share) => Math.log1p(99 * share) / Math.log(100),
};

const LESION = data.boxes ? "lesion" : "abnormal image"; // what is to be found

const element = (id) => document.getElementById(id);
const scanOf = new Map(data.scans.map((scan) => [String(scan.patient), scan]));
const state = {
  run: 0,
  scan: null,
  label: 1, // the class that is counted
  scores: [], // least ones, of the classes
  level: 100, // percent
  transfer: "linear",
  zoom: 0,
  two: false,
};
let shown = []; // patients in the list, in order
let drawn = []; // pictures of the scan: {canvas, grey, name, view, factor}

// ---- run ---------------------------------------------------------------------------------------

let curves = []; // of the classes

/** Puts what this run found into the scans, and starts from its thresholds. */
function chooseRun(number) {
  const run = data.runs[number];
  state.run = number;
  state.scores = data.classes.map((name) => run.thresholds[name]);
  data.scans.forEach((scan, i) => {
    scan.dice = run.scans[i].dice;
    scan.views.forEach((view, j) => Object.assign(view, run.scans[i].views[j]));
  });
  curves = data.classes.map((_, i) => frocCurve(i + 1));
}

// ---- counts ------------------------------------------------------------------------------------

function kept(view, label) {
  const least = state.scores[label - 1];
  return view.candidates.filter((each) => each[0] === label && each[1] >= least);
}

function count(scan, label) {
  const counts = { lesions: 0, hits: 0, alarms: 0 };
  for (const view of scan.views) {
    for (const lesion of view.lesions) counts.lesions += lesion[0] === label;
    for (const each of kept(view, label)) {
      counts.hits += each[6] >= HIT;
      counts.alarms += each[6] === FALSE_ALARM;
    }
  }
  counts.missed = counts.lesions - counts.hits;
  return counts;
}

function number(value, decimals = 0) {
  return value.toLocaleString("en", {
    minimumFractionDigits: decimals,
    maximumFractionDigits: decimals,
  });
}

/** Sets a text; one that is the same already is not read aloud again. */
function say(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

function some(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}

// ---- FROC --------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const PLOT = { left: 52, right: 312, top: 8, bottom: 118, least: 0.03 };
const numViews = data.scans.reduce((sum, scan) => sum + scan.views.length, 0);

function frocCurve(label) {
  const views = data.scans.flatMap((scan) => scan.views);
  const lesions = views.flatMap((view) => view.lesions).filter((each) => each[0] === label).length;
  const found = views.flatMap((view) => view.candidates).filter((each) => each[0] === label);
  found.sort((a, b) => b[1] - a[1]);
  const points = [{ score: Infinity, hits: 0, alarms: 0 }];
  let [hits, alarms] = [0, 0];
  found.forEach((each, i) => {
    hits += each[6] >= HIT;
    alarms += each[6] === FALSE_ALARM;
    if (i + 1 === found.length || found[i + 1][1] < each[1]) {
      points.push({ score: each[1], hits, alarms });
    }
  });
  return { lesions, points };
}

/** The last point of the curve whose score is at least this. */
function pointAt(curve, score) {
  let [low, high] = [0, curve.points.length];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (curve.points[middle].score >= score) low = middle;
    else high = middle;
  }
  return curve.points[low];
}

function place(curve, point, most) {
  const rate = Math.max(point.alarms / numViews, PLOT.least);
  const across = Math.log(rate / PLOT.least) / Math.log(most / PLOT.least);
  return [
    PLOT.left + across * (PLOT.right - PLOT.left),
    PLOT.bottom - (point.hits / curve.lesions) * (PLOT.bottom - PLOT.top),
  ];
}

function draw(name, attributes, text = "") {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  element("froc").append(node);
  return node;
}

const mostAlarms = (curve) => Math.max(2, curve.points.at(-1).alarms / numViews);

function drawCurve() {
  const curve = curves[state.label - 1];
  element("froc").replaceChildren(element("froc").firstElementChild);
  if (!curve.lesions) return;
  const most = mostAlarms(curve);
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const y = PLOT.bottom - share * (PLOT.bottom - PLOT.top);
    draw("path", { class: "grid", d: `M${PLOT.left} ${y}H${PLOT.right}` });
    draw("text", { x: PLOT.left - 6, y: y + 4, "text-anchor": "end" }, share);
  }
  for (const rate of [0.1, 0.3, 1, 3, 10, 30].filter((each) => each <= most)) {
    const [x] = place(curve, { alarms: rate * numViews, hits: 0 }, most);
    draw("path", { class: "axis", d: `M${x} ${PLOT.bottom}v4` });
    draw("text", { x, y: PLOT.bottom + 16, "text-anchor": "middle" }, rate);
  }
  draw("path", { class: "axis", d: `M${PLOT.left} ${PLOT.bottom}H${PLOT.right}` });
  const middle = (PLOT.left + PLOT.right) / 2;
  const below = { x: middle, y: PLOT.bottom + 33, "text-anchor": "middle" };
  draw("text", below, "false alarms per view");
  const beside = `translate(10 ${(PLOT.top + PLOT.bottom) / 2}) rotate(-90)`;
  draw("text", { transform: beside, "text-anchor": "middle" }, "share of lesions hit");
  const stride = Math.ceil(curve.points.length / 500);
  const path = curve.points
    .filter((_, i) => i % stride === 0 || i + 1 === curve.points.length)
    .map((point) => place(curve, point, most).map((each) => each.toFixed(1)).join(" "));
  const colour = COLOURS[state.label - 1];
  draw("path", { class: "line", stroke: colour, "stroke-width": 2, d: `M${path.join("L")}` });
  draw("circle", { id: "froc-point", r: 6, fill: colour, stroke: "#fff", "stroke-width": 2 });
}

function showTotals() {
  const curve = curves[state.label - 1];
  const score = state.scores[state.label - 1];
  const name = data.classes[state.label - 1];
  element("score-shown").textContent = score.toFixed(3);
  element("score").setAttribute("aria-valuetext", score.toFixed(3));
  if (!curve.lesions) {
    say("totals", `Nothing in these scans is annotated as ${name}.`);
    return;
  }
  const point = pointAt(curve, score);
  const rate = number(point.alarms / numViews, 2);
  say("totals",
    `${number(point.hits)} of ${some(curve.lesions, LESION)} hit ` +
    `(${number((100 * point.hits) / curve.lesions, 1)} %), ` +
    `${number(curve.lesions - point.hits)} missed, ` +
    `${some(point.alarms, "false alarm")} (${rate} per view)`);
  const [x, y] = place(curve, point, mostAlarms(curve));
  element("froc-point").setAttribute("cx", x);
  element("froc-point").setAttribute("cy", y);
  element("froc-title").textContent = `FROC curve, ${name}: now at ${element("totals").textContent}`;
}

// ---- list --------------------------------------------------------------------------------------

const rows = new Map(data.scans.map((scan) => [scan.patient, listRow(scan)]));

function listRow(scan) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = scan.patient;
  button.tabIndex = -1;
  head.append(button);
  row.append(head, ...[0, 1, 2].map(() => document.createElement("td")));
  row.lastElementChild.hidden = !data.boxes; // the Dice
  row.addEventListener("click", () => openScan(scan));
  return row;
}

const limit = (id, otherwise) => {
  const value = element(id).valueAsNumber;
  return Number.isNaN(value) ? otherwise : 1000 * value;
};

function isListed(scan, counts) {
  const [least, most] = [limit("counts-least", -Infinity), limit("counts-most", Infinity)];
  const known = scan.counts !== null;
  return (
    String(scan.patient).includes(element("search").value.trim()) &&
    (counts.missed > 0 || !element("only-missed").checked) &&
    (counts.alarms > 0 || !element("only-alarm").checked) &&
    (scan.overflow || !element("only-overflow").checked) &&
    (known ? scan.counts >= least && scan.counts <= most : least < 0 && most === Infinity)
  );
}

const ORDER = {
  worst: (a, b) =>
    b.counts.missed - a.counts.missed || b.counts.alarms - a.counts.alarms || a.dice - b.dice,
  patient: () => 0,
  counts: (a, b) => (a.scan.counts ?? Infinity) - (b.scan.counts ?? Infinity) || 0,
};

function showList() {
  const listed = data.scans
    .map((scan) => {
      const dice = scan.dice[state.label - 1];
      return { scan, counts: count(scan, state.label), dice: dice ?? 2 };
    })
    .filter(({ scan, counts }) => isListed(scan, counts))
    .sort((a, b) => ORDER[element("order").value](a, b) || a.scan.patient - b.scan.patient);
  shown = listed.map(({ scan }) => scan);
  for (const { scan, counts, dice } of listed) {
    const cells = rows.get(scan.patient).children;
    cells[1].textContent = counts.missed;
    cells[2].textContent = counts.alarms;
    cells[3].textContent = dice > 1 ? "–" : dice.toFixed(2);
  }
  element("list").querySelector("tbody").replaceChildren(
    ...shown.map((scan) => rows.get(scan.patient)));
  say("listed", `${number(shown.length)} of ${some(data.scans.length, "scan")}`);
  markRow();
}

/** Marks the row of the scan; Tab goes to it, or to the first row where it is not listed. */
function markRow() {
  const current = shown.includes(state.scan) ? state.scan : null;
  for (const scan of data.scans) {
    const row = rows.get(scan.patient);
    row.classList.toggle("selected", scan === current);
    const button = row.querySelector("button");
    button.tabIndex = scan === (current ?? shown[0]) ? 0 : -1;
    if (scan === current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
  const at = shown.indexOf(state.scan);
  element("previous").disabled = at <= 0;
  element("next").disabled = at + 1 >= shown.length;
}

function step(by) {
  const scan = shown[shown.indexOf(state.scan) + by];
  if (scan) openScan(scan);
}

/** Scrolls the list, and not the page, to the row of the scan. */
function keepRowInView() {
  const [row, list] = [rows.get(state.scan.patient), element("list")];
  const head = list.querySelector("thead").offsetHeight;
  const above = row.offsetTop - list.scrollTop;
  if (above < head || above + row.offsetHeight > list.clientHeight) {
    list.scrollTop = row.offsetTop - list.clientHeight / 2;
  }
}

// ---- pictures ----------------------------------------------------------------------------------

const decoded = new Map();
// Pictures stand after this script: until the page has been read, one may be there by half.
const pageRead = new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve));

/** Grey values of a picture: {width, height, values}, or null where the page does not have it. */
async function decode(name) {
  await pageRead;
  if (decoded.has(name)) return decoded.get(name);
  const block = element(name);
  if (!block) return null;
  const [base64, ...extra] = block.textContent.split(" ");
  const image = new Image();
  image.src = `data:image/webp;base64,${base64}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data: pixels } = context.getImageData(0, 0, canvas.width, canvas.height);
  const values = new Uint16Array(canvas.width * canvas.height);
  for (let i = 0; i < values.length; i++) values[i] = pixels[4 * i];
  for (let i = 0; i < extra.length; i += 2) values[extra[i]] = extra[i + 1];
  const grey = { width: canvas.width, height: canvas.height, values };
  decoded.set(name, grey);
  if (decoded.size > KEPT_PICTURES) decoded.delete(decoded.keys().next().value);
  return grey;
}

/** Inverted grey of every grey value up to the highest: 0 is white, the upper level black. */
function greyTable(level) {
  const table = new Uint8ClampedArray(65536);
  const transfer = TRANSFER[state.transfer];
  for (let i = 0; i < table.length; i++) {
    table[i] = i < level ? Math.round(255 * (1 - transfer(i / level))) : 0;
  }
  return table;
}

function scaleOf(grey, numPictures) {
  if (state.zoom) return state.zoom;
  const style = getComputedStyle(element("pictures"));
  const columns = Math.min(numPictures, window.innerWidth < 700 ? 2 : 4);
  const across =
    element("pictures").clientWidth - parseFloat(style.columnGap) * (columns - 1) - 2 * columns;
  const byWidth = across / columns / grey.width;
  const byHeight = (0.85 * window.innerHeight) / grey.height;
  return Math.min(byWidth, Math.max(byHeight, LEAST_SCALE), 2);
}

function paint({ canvas, grey, level, factor, view, said }) {
  said.textContent = verdict(view);
  const scale = scaleOf(grey, drawn.length);
  const pixelRatio = window.devicePixelRatio || 1;
  canvas.width = Math.round(grey.width * scale * pixelRatio);
  canvas.height = Math.round(grey.height * scale * pixelRatio);
  canvas.style.width = `${grey.width * scale}px`;
  canvas.style.height = `${grey.height * scale}px`;
  const plain = new OffscreenCanvas(grey.width, grey.height);
  const pixels = new ImageData(grey.width, grey.height);
  const words = new Uint32Array(pixels.data.buffer);
  const table = greyTable((level * state.level * factor) / 100);
  for (let i = 0; i < words.length; i++) words[i] = 0xff000000 | (table[grey.values[i]] * 0x010101);
  plain.getContext("2d").putImageData(pixels, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = scale * pixelRatio < 1;
  context.drawImage(plain, 0, 0, canvas.width, canvas.height);
  context.scale(scale * pixelRatio, scale * pixelRatio);
  const line = 1 / scale;
  if (data.boxes && element("outline-truth").checked) {
    for (const [label, ...box] of view.lesions) outline(context, label, box, line, []);
  }
  if (data.boxes && element("outline-prediction").checked) {
    for (const label of data.classes.keys()) {
      for (const [, , ...box] of kept(view, label + 1)) {
        outline(context, label + 1, box, line, [4 * line, 3 * line]);
      }
    }
  }
  canvas.setAttribute("aria-label", described(view, canvas.dataset.view, factor));
}

/** Rectangle of the first class, ellipse of the second; white below, so that it shows on black. */
function outline(context, label, [xmin, ymin, xmax, ymax], line, dashes) {
  if (!element(`outline-${label}`).checked) return;
  const around = dashes.length ? 4 * line : 2 * line; // the dashed one lies outside the solid one
  const [x, y] = [xmin - around, ymin - around];
  const [width, height] = [xmax - xmin + 2 * around, ymax - ymin + 2 * around];
  context.beginPath();
  if (label === 1) context.rect(x, y, width, height);
  else context.ellipse(x + width / 2, y + height / 2, width / 2, height / 2, 0, 0, 2 * Math.PI);
  context.setLineDash(dashes);
  context.strokeStyle = "#fff";
  context.lineWidth = 3.5 * line;
  context.stroke();
  context.strokeStyle = COLOURS[label - 1];
  context.lineWidth = 1.75 * line;
  context.stroke();
}

/** What became of an image that was classified. */
function result(view) {
  const isFound = kept(view, 1).length > 0;
  if (view.abnormal) return isFound ? "hit" : "missed";
  return isFound ? "false alarm" : "left out";
}

const annotation = (view) => (view.abnormal ? "abnormal" : "normal");
const verdict = (view) => `${annotation(view)}, score ${view.score.toFixed(2)}: ${result(view)}`;

function described(view, name, factor) {
  const counts = data.classes.map((each, i) => {
    const { lesions, hits, alarms } = count({ views: [view] }, i + 1);
    return `${each}: ${some(lesions, LESION)}, ${number(hits)} hit, ` +
      some(alarms, "false alarm");
  });
  const shade = factor === 1 ? "" : ", for hot spots";
  return `${name} view${shade}; ${counts.join("; ")}`;
}

const SIDES = { anterior: ["R", "L"], posterior: ["L", "R"] }; // of the patient, left to right

function figure(name, view, factor) {
  const node = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const [left, right] = SIDES[name] ?? ["", ""];
  const words = [view.region, name, factor === 1 ? "" : "hot spots"].filter(Boolean).join(", ");
  for (const text of [left, words, right]) {
    const part = document.createElement("span");
    part.textContent = text;
    caption.append(part);
  }
  const said = document.createElement("p");
  said.hidden = data.boxes;
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.dataset.view = [view.region, name].filter(Boolean).join(", ");
  canvas.dataset.factor = factor;
  node.append(caption, canvas, said);
  return { node, canvas, said };
}

async function showPictures() {
  const scan = state.scan;
  const wanted = [];
  for (const factor of state.two ? [1, HOT_SPOTS] : [1]) {
    for (const view of scan.views) {
      for (const [name, id] of view.pictures) wanted.push({ view, name, id, factor });
    }
  }
  const greys = await Promise.all(wanted.map(({ id }) => decode(id)));
  if (scan !== state.scan) return; // another one was opened meanwhile
  const found = wanted
    .map((each, i) => ({ ...each, grey: greys[i] }))
    .filter(({ grey }) => grey)
    .map((each) => ({
      ...each, ...figure(each.name, each.view, each.factor), level: data.levels[each.id],
    }));
  element("pictures").replaceChildren(...found.map(({ node }) => node));
  element("pictures").hidden = !found.length;
  element("no-picture").hidden = found.length > 0;
  drawn = found;
  drawn.forEach(paint);
  element("pictures").dataset.patient = scan.patient;
}

// ---- scan --------------------------------------------------------------------------------------

const whole = (view) => [view.region, view.view].filter(Boolean).join(", ");

function showSummary() {
  const scan = state.scan;
  const parts = data.classes.map((name, i) => {
    const { lesions, missed, alarms } = count(scan, i + 1);
    if (!lesions && !alarms) return `${name}: nothing annotated or predicted`;
    const found = `${some(lesions, LESION)}, ${number(missed)} missed`;
    return `${name}: ${found}, ${some(alarms, "false alarm")}`;
  });
  for (const view of data.boxes ? scan.views : []) {
    parts.push(`${whole(view)} annotated ${annotation(view)}, score ${view.score.toFixed(2)}`);
  }
  if (scan.counts !== null) parts.push(`${number(scan.counts / 1000)} thousand counts`);
  if (scan.overflow) parts.push("pixels had overflowed");
  say("scan-summary", parts.join("; "));
  showFindings();
}

/** Lines of the table: view, class, result, score and the place of its middle. */
function findings() {
  const middle = ([xmin, ymin, xmax, ymax]) =>
    [Math.round((xmin + xmax) / 2), Math.round((ymin + ymax) / 2)];
  const lines = [];
  for (const view of state.scan.views) {
    const where = whole(view);
    if (!data.boxes) {
      lines.push([where, annotation(view), result(view), view.score.toFixed(3)]);
      continue;
    }
    const candidates = data.classes.flatMap((_, i) => kept(view, i + 1));
    view.lesions.forEach(([label, ...box], i) => {
      const hit = candidates.find((each) => each[0] === label && each[6] === i);
      const score = hit?.[1].toFixed(3) ?? "–";
      lines.push([where, data.classes[label - 1], hit ? "hit" : "missed", score, ...middle(box)]);
    });
    for (const [label, score, ...box] of candidates) {
      if (box[4] < HIT) {
        const outcome = box[4] === FALSE_ALARM ? "false alarm" : "further mark on a lesion";
        lines.push([where, data.classes[label - 1], outcome, score.toFixed(3), ...middle(box)]);
      }
    }
  }
  return lines;
}

function showFindings() {
  element("findings").querySelector("tbody").replaceChildren(
    ...findings().map((texts) => {
      const row = document.createElement("tr");
      row.append(...texts.map((text, i) => {
        const cell = document.createElement(i ? "td" : "th");
        if (!i) cell.scope = "row";
        cell.textContent = text;
        return cell;
      }));
      return row;
    }));
}

function openScan(scan) {
  state.scan = scan;
  element("scan-title").textContent = `Patient ${scan.patient}`;
  showSummary();
  markRow();
  keepRowInView();
  keepLink();
  showPictures();
}

// ---- controls ----------------------------------------------------------------------------------

/** Writes what is shown into the address; only when a control is released: browsers limit it. */
function keepLink() {
  const link = new URLSearchParams({
    ...(data.runs.length > 1 ? { run: data.runs[state.run].name } : {}),
    scan: state.scan.patient, level: state.level, transfer: state.transfer, zoom: state.zoom,
    two: Number(state.two), class: data.classes[state.label - 1],
    score: state.scores[state.label - 1],
  });
  element("link").href = `#${link}`;
  history.replaceState(null, "", `#${link}`);
}

function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  const scan = scanOf.get(link.get("scan"));
  const run = data.runs.findIndex(({ name }) => name === link.get("run"));
  if (run >= 0) chooseRun(run);
  const within = (name, low, high, otherwise) => {
    const value = parseFloat(link.get(name));
    return value >= low && value <= high ? value : otherwise;
  };
  state.level = within("level", 10, 400, state.level);
  state.zoom = within("zoom", 0, 4, state.zoom);
  state.two = link.has("two") ? link.get("two") === "1" : state.two;
  if (Object.hasOwn(TRANSFER, link.get("transfer"))) state.transfer = link.get("transfer");
  state.label = data.classes.indexOf(link.get("class")) + 1 || state.label;
  state.scores[state.label - 1] = within("score", 0, 1, state.scores[state.label - 1]);
  return scan;
}

function showControls() {
  element("run").value = state.run;
  element("class").value = state.label;
  element("score").value = state.scores[state.label - 1];
  element("level").value = state.level;
  element("transfer").value = state.transfer;
  element("zoom").value = state.zoom;
  element("two").checked = state.two;
  showLevel();
  drawCurve();
  showTotals();
}

function showLevel() {
  element("level-shown").textContent = `${state.level} %`;
  element("level").setAttribute("aria-valuetext", `${state.level} percent`);
}

const repaint = () => drawn.forEach(paint);

function onScore() {
  state.scores[state.label - 1] = element("score").valueAsNumber;
  showTotals();
  showList();
  showSummary();
  repaint();
}

function onRun(event) {
  chooseRun(Number(event.target.value));
  showControls();
  showList();
  openScan(state.scan);
}

function onDisplay(event) {
  const control = event.target;
  if (control.id === "level") state.level = control.valueAsNumber;
  if (control.id === "transfer") state.transfer = control.value;
  if (control.id === "zoom") state.zoom = Number(control.value);
  if (control.id === "two") state.two = control.checked;
  showLevel();
  if (control.id === "two") showPictures();
  else repaint();
}

function onListKey(event) {
  const by = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
  const at = shown.findIndex((scan) => rows.get(scan.patient).contains(event.target));
  if (by === undefined || at < 0) return;
  event.preventDefault();
  const to = shown[Math.min(Math.max(at + by, 0), shown.length - 1)];
  rows.get(to.patient).querySelector("button").focus();
}

function onKey(event) {
  const typing = event.target.matches("input[type=search], input[type=number], select, textarea");
  if (!element("keys").checked || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "n") step(1);
  if (event.key === "p") step(-1);
}

function checkbox(id, text, mark) {
  const label = document.createElement("label");
  const box = document.createElement("input");
  [box.type, box.id, box.checked] = ["checkbox", id, true];
  const sample = document.createElement("span");
  sample.className = `mark ${mark}`;
  label.append(box, " ", sample, ` ${text}`);
  element("outlines").append(label);
}

function start() {
  data.runs.forEach(({ name }, i) => element("run").append(new Option(name, i)));
  element("runs").hidden = data.runs.length === 1;
  chooseRun(0);
  data.classes.forEach((name, i) => element("class").append(new Option(name, i + 1)));
  checkbox("outline-truth", "annotated", "solid");
  checkbox("outline-prediction", "predicted", "dashed");
  data.classes.forEach((name, i) => checkbox(`outline-${i + 1}`, name, `mark-${i + 1}`));
  for (const node of document.querySelectorAll(".boxes")) node.toggleAttribute("hidden", !data.boxes);
  element("pictures").classList.toggle("crops", !data.boxes);
  if (!data.boxes) element("findings").querySelector("summary").textContent = "What is said";
  element("detection").hidden = !curves.some((curve) => curve.lesions);
  element("workplace").hidden = false;
  const asked = readLink();
  showControls();
  showList();
  openScan(asked ?? shown[0] ?? data.scans[0]);
  if (asked) element("viewer").scrollIntoView();

  element("run").addEventListener("change", onRun);
  element("class").addEventListener("change", (event) => {
    state.label = Number(event.target.value);
    showControls();
    showList();
    keepLink();
  });
  element("score").addEventListener("input", onScore);
  element("display").addEventListener("input", onDisplay);
  element("outlines").addEventListener("input", repaint);
  element("score").addEventListener("change", keepLink);
  element("display").addEventListener("change", (event) => {
    onDisplay(event); // assistive technology may set a control without the event "input"
    keepLink();
  });
  for (const type of ["input", "change"]) element("filters").addEventListener(type, showList);
  element("filters").addEventListener("submit", (event) => event.preventDefault());
  element("previous").addEventListener("click", () => step(-1));
  element("next").addEventListener("click", () => step(1));
  element("list").addEventListener("keydown", onListKey);
  document.addEventListener("keydown", onKey);
  window.addEventListener("resize", repaint);
  window.addEventListener("hashchange", () => {
    const scan = readLink();
    showControls();
    showList();
    if (scan) openScan(scan);
  });
}

start();
