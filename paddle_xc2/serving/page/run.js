// A training run as it goes on: curves, sample answers, predictions. It is looked at again every two seconds.

import { request } from "/page/server.js";
import { word } from "/page/words.js";

const SECONDS = 2;
const CHARTS = [["loss", "eval_loss"], ["learning_rate"], ["peak_memory_gb"], ["tokens_per_second"]];
const WIDTH = 600, HEIGHT = 200, LEFT = 56, BOTTOM = 24;
let timer = null;

export function watchRun(visible) {
  clearTimeout(timer);
  timer = null;
  if (visible) look();
}

async function look() {
  const again = () => { timer = setTimeout(look, SECONDS * 1000); };
  timer = setTimeout(() => {}, 0);
  const mine = timer;
  try {
    const run = await (await request("/page/run")).json();
    if (timer === mine) showRun(run);
  } catch (error) {
    document.getElementById("run-state").textContent = error.message;
  }
  if (timer === mine) again();
}

function showRun(run) {
  document.getElementById("run-name").textContent = run.name;
  const last = run.metrics.at(-1);
  const told = last ? Object.entries(last).map(([name, value]) => `${name} ${short(value)}`).join(", ") : word("waiting");
  document.getElementById("run-state").textContent = told;
  document.getElementById("charts").replaceChildren(...CHARTS.map((names) => chart(run.metrics, names)).filter(Boolean));
  showTable("answers", "has-answers", answerRows(run.answers));
  const predictions = run.predictions.map((line) => [line.question, line.expected, line.answer].map((text) => text ?? ""));
  const titles = ["question", "expected", "answer"].map(word);
  showTable("predictions", "has-predictions", predictions.length ? [titles, ...predictions] : []);
}

function answerRows(answers) {
  const steps = [...new Set(answers.map((answer) => answer.step))].sort((a, b) => a - b);
  const rows = new Map();
  for (const { image, question, step, answer } of answers) {
    const key = JSON.stringify([image, question]);
    if (!rows.has(key)) rows.set(key, [image?.split("/").at(-1) ?? "", question, ...steps.map(() => "")]);
    rows.get(key)[2 + steps.indexOf(step)] = answer;
  }
  if (!rows.size) return [];
  const titles = steps.map((step) => (step ? `${word("step")} ${step}` : word("before")));
  return [[word("image"), word("question"), ...titles], ...rows.values()];
}

function showTable(id, className, rows) {
  for (const element of document.getElementsByClassName(className)) element.hidden = !rows.length;
  document.getElementById(id).replaceChildren(...rows.map((cells, index) => {
    const row = document.createElement("tr");
    row.append(...cells.map((text) => {
      const cell = document.createElement(index ? "td" : "th");
      cell.textContent = text;
      return cell;
    }));
    return row;
  }));
}

function short(value) {
  return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
}

function svg(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// One picture with a line for each of `names`; null if none of them was measured.
function chart(metrics, names) {
  const curves = names.map((name) => metrics.filter((line) => Number.isFinite(line[name])).map((line) => [line.step, line[name]]));
  const points = curves.flat();
  if (!points.length) return null;
  const [steps, values] = [points.map(([step]) => step), points.map(([, value]) => value)];
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const [low, high] = [Math.min(0, ...values), Math.max(...values)];
  const x = (step) => LEFT + (WIDTH - LEFT - 8) * (last > first ? (step - first) / (last - first) : 0.5);
  const y = (value) => 8 + (HEIGHT - BOTTOM - 8) * (high > low ? 1 - (value - low) / (high - low) : 0.5);
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": names.map(word).join(", ") });
  drawing.append(
    svg("line", { x1: LEFT, y1: y(low), x2: WIDTH - 8, y2: y(low), class: "axis" }),
    svg("text", { x: LEFT - 6, y: y(high) + 10, "text-anchor": "end" }, short(high)),
    svg("text", { x: LEFT - 6, y: y(low), "text-anchor": "end" }, short(low)),
    svg("text", { x: LEFT, y: HEIGHT - 6 }, `${word("step")} ${first}`),
    svg("text", { x: WIDTH - 8, y: HEIGHT - 6, "text-anchor": "end" }, last),
  );
  curves.forEach((curve, index) => {
    const line = curve.map(([step, value]) => `${x(step)},${y(value)}`).join(" ");
    drawing.append(svg("polyline", { points: line, class: `curve-${index}` }));
    const name = svg("text", { x: WIDTH - 12, y: 20 + 16 * index, "text-anchor": "end", class: `name-${index}` });
    name.textContent = word(names[index]);
    if (curve.length) drawing.append(name);
  });
  return drawing;
}
