/** Projects: make one, open and pause it, give it items. */

import { patch, post } from "../api.js";
import { el } from "../element.js";
import { button, card, field, options, nothing } from "./card.js";

export async function projectPage(project, page) {
  return el(
    "div",
    { class: "stack" },
    project ? settings(project, page) : nothing("Make a first project, then give it items."),
    project ? upload(project, page) : null,
    fresh(page),
  );
}

function settings(project, page) {
  const guidelines = el("textarea", { rows: 8 }, project.guidelines ?? "");
  const need = number(project.need ?? 1, 1, 50);
  const gold = number(project.gold_rate ?? 0.05, 0, 0.5, 0.01);
  const save = (more) => async () => {
    await patch(`/projects/${project.id}`, more());
    await page.refresh();
    page.say("Saved");
  };
  const toState = (state) => () => ({ state });
  const changed = () => ({
    guidelines: guidelines.value,
    need: Number(need.value),
    gold_rate: Number(gold.value),
  });
  const [next, verb] = project.state === "open" ? ["paused", "Pause"] : ["open", "Open"];
  return card(
    project.name,
    el(
      "div",
      { class: "form" },
      field("Answers an item", need),
      field("Share of gold questions", gold),
      button("Save", save(changed), { kind: "primary", say: page.say }),
      button(`${verb} the project`, save(toState(next)), { say: page.say }),
    ),
    field("Guidelines (Markdown)", guidelines),
  );
}

function upload(project, page) {
  const file = el("input", { type: "file", accept: ".jsonl,.ndjson,application/x-ndjson" });
  const told = el(
    "p",
    { class: "help", role: "status" },
    "JSON lines with a prompt and its answers, in any format that “clew data check” knows.",
  );
  const send = async () => {
    if (!file.files[0]) return page.say("Choose a file first");
    const reply = await post(`/projects/${project.id}/items`, await file.files[0].text(), {
      type: "application/x-ndjson",
    });
    const lines = reply.lines;
    const bad = lines.filter(({ error }) => error);
    const why = bad.slice(0, 5).map(({ line, error }) => ` Line ${line}: ${error}.`);
    told.textContent = `${reply.added} items added, ${bad.length} lines refused.${why.join("")}`;
    page.say("Items added");
  };
  return card(
    "Items",
    el(
      "div",
      { class: "form" },
      field("File", file),
      button("Add items", send, { kind: "primary", say: page.say }),
    ),
    told,
  );
}

function fresh(page) {
  const called = el("input", { type: "text", maxlength: 200 });
  const kind = options(KINDS);
  const make = async () => {
    const { id } = await post("/projects", { name: called.value.trim(), kind: kind.value });
    await page.refresh(id);
    page.say("Project made");
  };
  return card(
    "New project",
    el(
      "div",
      { class: "form" },
      field("Name", called),
      field("Task", kind),
      button("Make it", make, { kind: "primary", say: page.say }),
    ),
  );
}

const number = (value, min, max, step = 1) => el("input", { type: "number", value, min, max, step });

const KINDS = [
  ["comparison", "Compare two answers"],
  ["ranking", "Rank several answers"],
  ["rating", "Rate on scales"],
  ["thumb", "Thumb up or down"],
  ["flaws", "Flaw questions"],
  ["spans", "Mark spans"],
  ["steps", "Label steps"],
  ["demonstration", "Write the ideal answer"],
  ["prompt", "Write prompts"],
  ["revision", "Correct an answer"],
  ["conversation", "Talk with a model"],
  ["clips", "Compare two clips"],
];
