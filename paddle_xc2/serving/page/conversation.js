// A conversation: its turns, and what the server is sent of them. Knows nothing of the page.

import { events, post } from "/page/server.js";

export class Conversation {
  // turns: [{text, images: [{name, url}], answer, note, boxes}], the oldest first.
  turns = [];

  messages(upTo, system) {
    const messages = system ? [{ role: "system", content: system }] : [];
    for (const turn of this.turns.slice(0, upTo + 1)) {
      const images = turn.images.map((image) => ({ type: "image_url", image_url: { url: image.url } }));
      messages.push({ role: "user", content: [...images, { type: "text", text: turn.text }] });
      messages.push({ role: "assistant", content: turn.answer });
    }
    messages.pop(); // the answer that is asked for
    return messages;
  }

  // Has the last turn answered; calls `grown` with every new piece. Throws what goes wrong; what was said stays.
  async answer(model, settings, system, signal, grown) {
    const index = this.turns.length - 1;
    const turn = this.turns[index];
    Object.assign(turn, { answer: "", note: "", reason: "", boxes: [] });
    const body = { model, messages: this.messages(index, system), stream: true, ...settings };
    const response = await post("/v1/chat/completions", body, signal);
    for await (const event of events(response)) {
      const [choice] = event.choices;
      turn.answer += choice.delta.content ?? "";
      if (choice.finish_reason === "length") turn.note = "cut";
      if (choice.empty_reason) turn.reason = choice.empty_reason;
      grown();
    }
    if (!turn.answer.trim()) turn.note = "empty";
    turn.boxes = await (await post("/page/boxes", { text: turn.answer })).json();
    grown();
  }

  // The picture that an answer's boxes are about: the last one that was shown by then.
  pictureOf(index) {
    return this.turns.slice(0, index + 1).flatMap((turn) => turn.images).at(-1);
  }

  asMarkdown(you) {
    return this.turns.map((turn) => {
      const images = turn.images.map((image) => `![${image.name.replace(/[\[\]]/g, "")}](${image.url})\n\n`).join("");
      return `**${you}:** ${images}${turn.text}\n\n${turn.answer}\n`;
    }).join("\n---\n\n");
  }
}
