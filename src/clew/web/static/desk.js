/** The labelling page: sign in, choose a project, work. */

import { get } from "./api.js";
import { askOne } from "./dialog.js";
import { el, name } from "./element.js";
import { signIn } from "./session.js";
import { Work } from "./work.js";

const byId = (id) => document.getElementById(id);

async function start() {
  const me = await signIn();
  byId("me").replaceChildren(name(me.pseudonym));
  const projects = (await get("/projects")).filter(({ state }) => state === "open");
  if (projects.length === 0) return show("No project is open.", "Your operator opens projects; this page has nothing to do until then.");
  const project = projects.length === 1 ? projects[0] : await chosen(projects);
  byId("project").replaceChildren(name(project.name));
  document.title = `${project.name} · clew desk`;
  await new Work(me, project).start();
}

/** The project that the rater works on: asked for, until one is chosen; kept for this tab. */
async function chosen(projects) {
  const kept = projects.find(({ id }) => id === sessionStorage.getItem("clew.project"));
  if (kept) return kept;
  let id = null;
  while (!id) id = await askOne("Which project?", "", projects.slice(0, 9).map((one) => [one.id, one.name]));
  sessionStorage.setItem("clew.project", id);
  return projects.find((one) => one.id === id);
}

function show(title, text) {
  byId("task").replaceChildren(el("div", { class: "nothing" }, el("h1", {}, title), el("p", {}, text)));
}

start().catch((error) => {
  if (error.status === 401) return show("Open your personal link", "The desk knows you by a link that your operator gave you. Open it again, or ask for a new one.");
  show("The desk cannot start", error.message);
});
