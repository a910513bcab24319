/** The labelling page: sign in, choose a project, work. */

import { get } from "./api.js";
import { askOne } from "./dialog.js";
import { el, name } from "./element.js";
import { signIn } from "./session.js";
import { Work } from "./work.js";

const byId = (id) => document.getElementById(id);

async function start() {
  const told = new URLSearchParams(location.hash.slice(1));
  const me = await signIn();
  if (told.has("token") && OPERATORS.includes(me.role)) return location.replace("operator.html");
  byId("me").replaceChildren(name(me.pseudonym));
  const projects = (await get("/projects")).filter(({ state }) => state === "open");
  if (projects.length === 0)
    return show("No project is open", "Your operator opens projects; there is nothing to do until then.");
  const project = await chosen(projects, told.get("project"));
  byId("project").replaceChildren(name(project.name));
  byId("project").addEventListener("click", () => projects.length > 1 && leave());
  document.title = `${project.name} · clew desk`;
  await new Work(me, project).start();
}

/** The project that the rater works on: the only one, the one told, the one of before, or the one they choose. */
async function chosen(projects, told) {
  const kept = told ?? sessionStorage.getItem("clew.project");
  let project = projects.length === 1 ? projects[0] : projects.find(({ id }) => id === kept);
  const options = projects.map((one) => [one, one.name]);
  while (!project) project = await askOne("Which project?", "", options);
  sessionStorage.setItem("clew.project", project.id);
  return project;
}

function leave() {
  sessionStorage.removeItem("clew.project");
  history.replaceState(null, "", location.pathname);
  location.reload();
}

function show(title, text) {
  byId("task").replaceChildren(el("div", { class: "nothing" }, el("h1", {}, title), el("p", {}, text)));
}

const OPERATORS = ["operator", "owner"];

start().catch((error) => {
  if (error.status === 401)
    return show(
      "Open your personal link",
      "The desk knows you by a link that your operator gave you. Open it again, or ask for a new one.",
    );
  show("The desk cannot start", error.message);
});
