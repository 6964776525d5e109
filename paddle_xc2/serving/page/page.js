// The page: what is typed and dropped becomes turns of a conversation, which are shown as they grow.

import { Conversation } from "/page/conversation.js";
import { watchRun } from "/page/run.js";
import { request } from "/page/server.js";
import { changeLanguage, showWords, word } from "/page/words.js";

const SETTINGS = ["temperature", "top_p", "top_k", "repetition_penalty", "max_completion_tokens", "seed"];
const at = (id) => document.getElementById(id);

const conversation = new Conversation();
let pending = []; // pictures of the next question
let maxImages = 16;
let running = null; // AbortController of the answer that is on its way

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// --- Showing ---

function show() {
  at("turns").replaceChildren(...conversation.turns.map(turnElement));
  at("pending").replaceChildren(...pending.map(pendingElement));
  at("stop").hidden = !running;
  at("send").disabled = Boolean(running);
  for (const id of ["undo", "copy", "export-json", "export-markdown"]) at(id).disabled = !conversation.turns.length;
}

// While an answer grows, the others stay as they are.
function showLast() {
  const last = conversation.turns.length - 1;
  at("turns").lastElementChild.replaceWith(turnElement(conversation.turns[last], last));
}

function turnElement(turn, index) {
  const images = turn.images.map((image) => element("img", { src: image.url, alt: image.name }));
  const edit = element("button", { type: "button", textContent: word("edit"), onclick: () => editTurn(index) });
  const again = element("button", { type: "button", textContent: word("again"), onclick: () => askAgain(index) });
  const question = element("div", { className: "question" }, ...images, element("p", { textContent: turn.text }));
  const answer = element("div", { className: "answer" }, element("p", { textContent: turn.answer }));
  if (turn.note) answer.append(element("p", { className: "note", textContent: noteOf(turn) }));
  if (turn.boxes?.length) answer.append(boxedPicture(conversation.pictureOf(index), turn.boxes));
  const tools = element("div", { className: "tools" }, edit, again);
  edit.disabled = again.disabled = Boolean(running);
  return element("li", {}, question, answer, tools);
}

function noteOf(turn) {
  return turn.note === "empty" && turn.reason ? `${word("empty")} ${turn.reason}` : word(turn.note);
}

function boxedPicture(image, boxes) {
  const figure = element("figure", { className: "boxed" });
  if (!image) return figure;
  figure.append(element("img", { src: image.url, alt: image.name }));
  for (const { name, box } of boxes) {
    const [left, top, right, bottom] = box.map((share) => share * 100);
    const frame = element("div", { className: "box" }, element("span", { textContent: name }));
    Object.assign(frame.style, {
      left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%`,
    });
    figure.append(frame);
  }
  return figure;
}

function pendingElement(image, index) {
  const remove = element("button", { type: "button", textContent: "×", title: word("remove") });
  remove.setAttribute("aria-label", `${word("remove")}: ${image.name}`);
  remove.onclick = () => { pending.splice(index, 1); show(); };
  return element("span", {}, element("img", { src: image.url, alt: image.name }), remove);
}

// --- Pictures ---

async function addFiles(files) {
  for (const file of files) {
    if (!file.type.startsWith("image/")) {
      at("problem").textContent = `${word("no_picture")}: ${file.name}`;
      continue;
    }
    const url = await new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.readAsDataURL(file);
    });
    pending.push({ name: file.name, url });
  }
  if (pending.length > maxImages) {
    pending = pending.slice(0, maxImages);
    at("problem").textContent = word("too_many").replace("{n}", maxImages);
  }
  show();
}

// --- Asking ---

function settings() {
  const given = SETTINGS.filter((name) => at(name).value !== "" && at(name).checkValidity());
  return Object.fromEntries(given.map((name) => [name, Number(at(name).value)]));
}

async function answerLast() {
  running = new AbortController();
  at("problem").textContent = "";
  show();
  const turn = conversation.turns.at(-1);
  try {
    await conversation.answer(at("model").value, settings(), at("system").value, running.signal, showLast);
  } catch (error) {
    if (error.name === "AbortError") turn.note = "stopped";
    else {
      at("problem").textContent = error.message;
      if (!turn.answer) { // nothing was said: the question goes back to where it can be changed
        conversation.turns.pop();
        at("question").value = turn.text;
        pending = turn.images;
      }
    }
  }
  running = null;
  show();
}

function ask() {
  const text = at("question").value.trim();
  if (running || (!text && !pending.length)) return;
  conversation.turns.push({ text, images: pending, answer: "", note: "", boxes: [] });
  pending = [];
  at("question").value = "";
  answerLast();
}

function askAgain(index) {
  conversation.turns = conversation.turns.slice(0, index + 1);
  answerLast();
}

function editTurn(index) {
  const turn = conversation.turns[index];
  conversation.turns = conversation.turns.slice(0, index);
  at("question").value = turn.text;
  pending = turn.images;
  at("question").focus();
  show();
}

function download(name, type, content) {
  const link = element("a", { download: name, href: URL.createObjectURL(new Blob([content], { type })) });
  link.click();
  URL.revokeObjectURL(link.href);
}

function exportJson() {
  const messages = conversation.messages(conversation.turns.length - 1, at("system").value);
  messages.push({ role: "assistant", content: conversation.turns.at(-1).answer });
  download("conversation.json", "application/json", JSON.stringify({ messages }, null, 1));
}

function selectTab(name) {
  for (const tab of ["chat", "run"]) {
    at(tab).hidden = tab !== name;
    at(`tab-${tab}`).setAttribute("aria-selected", String(tab === name));
  }
  watchRun(name === "run");
}

// --- Beginning ---

function listen() {
  at("ask").onsubmit = (event) => { event.preventDefault(); ask(); };
  at("question").onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); }
  };
  at("stop").onclick = () => running?.abort();
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
  for (const id of ["files", "camera"]) {
    at(id).onchange = () => { addFiles([...at(id).files]).then(() => { at(id).value = ""; }); };
    at(id).parentElement.onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") at(id).click(); };
  }
  document.addEventListener("paste", (event) => addFiles([...event.clipboardData.files]));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => { event.preventDefault(); addFiles([...event.dataTransfer.files]); });
  at("undo").onclick = () => { running?.abort(); conversation.turns.pop(); show(); };
  at("reset").onclick = () => { running?.abort(); conversation.turns = []; pending = []; show(); };
  at("copy").onclick = async () => {
    await navigator.clipboard.writeText(conversation.turns.at(-1).answer);
    at("copy").textContent = word("copied");
    setTimeout(showWords, 1000);
  };
  at("export-json").onclick = exportJson;
  at("export-markdown").onclick = () => download("conversation.md", "text/markdown", conversation.asMarkdown(word("you")));
  at("language").onclick = () => { changeLanguage(); show(); };
  at("tab-chat").onclick = () => selectTab("chat");
  at("tab-run").onclick = () => selectTab("run");
}

async function begin() {
  showWords();
  listen();
  show();
  const setup = await (await request("/page/setup")).json();
  const models = await (await request("/v1/models")).json();
  at("model").replaceChildren(...models.data.map(({ id }) => element("option", { value: id, textContent: id })));
  for (const [name, value] of Object.entries(setup.settings)) at(name).placeholder = value;
  maxImages = setup.max_images;
  at("tab-run").hidden = !setup.run;
  at("examples").hidden = !setup.examples.length;
  at("examples").lastElementChild.replaceChildren(...setup.examples.map(({ text, images }) => {
    const shown = images.map((url, index) => ({ name: `example ${index + 1}`, url }));
    const pictures = shown.map(({ url, name }) => element("img", { src: url, alt: name }));
    const row = element("span", { className: "pictures" }, ...pictures);
    const button = element("button", { type: "button" }, row, element("span", { textContent: text }));
    button.onclick = () => { at("question").value = text; pending = [...shown]; at("question").focus(); show(); };
    return button;
  }));
}

begin().catch((error) => { at("problem").textContent = error.message; });
