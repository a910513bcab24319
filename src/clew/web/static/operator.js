/** The operator's dashboard: sign in, choose a project and a page. The page's name stands in the fragment. */

import { get } from "./api.js";
import { el, name } from "./element.js";
import { agreementPage } from "./operator/agreement.js";
import { biasPage } from "./operator/bias.js";
import { coveragePage } from "./operator/coverage.js";
import { exportsPage } from "./operator/exports.js";
import { logPage } from "./operator/log.js";
import { overviewPage } from "./operator/overview.js";
import { peoplePage } from "./operator/people.js";
import { projectPage } from "./operator/project.js";
import { ratersPage } from "./operator/raters.js";
import { reviewPage } from "./operator/review.js";
import { signIn } from "./session.js";

const byId = (id) => document.getElementById(id);
let projects = [];
let project = null;
let shown = 0;

async function start() {
  const me = await signIn();
  if (me.role !== "operator" && me.role !== "owner") return location.replace("./");
  byId("me").replaceChildren(name(me.pseudonym));
  byId("projects").addEventListener("change", () => choose(byId("projects").value));
  addEventListener("hashchange", show);
  await refresh();
}

/** Reads the projects anew and shows the page; pages call it when they changed something. */
async function refresh(id = project?.id) {
  projects = await get("/projects");
  byId("projects").hidden = projects.length === 0;
  byId("projects").replaceChildren(...projects.map((one) => el("option", { value: one.id }, one.name)));
  const kept = id ?? sessionStorage.getItem("clew.project");
  await choose(projects.some((one) => one.id === kept) ? kept : projects[0]?.id);
}

async function choose(id) {
  project = projects.find((one) => one.id === id) ?? null;
  if (project) {
    sessionStorage.setItem("clew.project", id);
    byId("projects").value = id;
  }
  byId("state").replaceChildren(
    project ? el("span", { class: `badge ${STATES[project.state] ?? ""}` }, project.state) : "",
  );
  await show();
}

/** Draws the page of the fragment; a page that comes after a newer one was asked for is dropped. */
async function show() {
  const asked = ++shown;
  const current =
    PAGES[location.hash.slice(1)] && (project || location.hash === "#people")
      ? location.hash.slice(1)
      : project
        ? "overview"
        : "project";
  const { title, draw } = PAGES[current];
  drawNav(current);
  document.title = `${title} · clew desk`;
  const content = await draw(project, { refresh, say }).catch(trouble);
  if (asked !== shown) return;
  byId("page").replaceChildren(el("h1", {}, title), content);
  byId("page").dataset.page = current;
}

function drawNav(current) {
  const links = Object.entries(PAGES).map(([key, { title }]) =>
    el("a", { href: `#${key}`, "aria-current": key === current ? "page" : null }, title),
  );
  byId("nav").replaceChildren(...links);
}

function say(text) {
  byId("says").textContent = text;
}

function trouble(error) {
  if (error.status === undefined) throw error;
  return el("p", { class: "banner", role: "alert" }, `This page cannot be shown: ${error.message}`);
}

const STATES = { open: "good", paused: "warn", closed: "" };

const PAGES = {
  overview: { title: "Overview", draw: overviewPage },
  agreement: { title: "Agreement", draw: agreementPage },
  raters: { title: "Raters", draw: ratersPage },
  bias: { title: "Bias", draw: biasPage },
  coverage: { title: "Coverage", draw: coveragePage },
  review: { title: "Review", draw: reviewPage },
  exports: { title: "Exports", draw: exportsPage },
  people: { title: "People", draw: peoplePage },
  project: { title: "Projects", draw: projectPage },
  log: { title: "Log", draw: logPage },
};

start().catch((error) => {
  const text =
    error.status === 401
      ? "Open the operator's link that `clew desk` printed, or ask the owner for a new one."
      : error.message;
  byId("page").replaceChildren(
    el("div", { class: "nothing" }, el("h1", {}, "Not signed in"), el("p", {}, text)),
  );
});
