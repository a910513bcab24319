/** What a task looks like, by its kind. A kind is a function (task, desk) => View.

View: {element, actions: {name: function(place)}, answer(): the record or null, missing: what to say then, focus?}.
An action that gives false leaves its key to others. Nothing is chosen before its rater chose it. */

import { clips } from "./clips.js";
import { comparison } from "./comparison.js";
import { conversation } from "./conversation.js";
import { flaws } from "./flaws.js";
import { ranking } from "./ranking.js";
import { rating } from "./rating.js";
import { spans } from "./spans.js";
import { steps } from "./steps.js";
import { thumb } from "./thumb.js";
import { demonstration, prompt, revision } from "./writing.js";

export const KINDS = {
  clips,
  comparison,
  conversation,
  demonstration,
  flaws,
  prompt,
  ranking,
  rating,
  revision,
  spans,
  steps,
  thumb,
};

export const TITLES = {
  clips: "Which clip is better?",
  comparison: "Which answer is better?",
  conversation: "Talk with a model",
  demonstration: "Write the ideal answer",
  flaws: "What is wrong with it?",
  prompt: "Write a prompt",
  ranking: "Order the answers, best first",
  rating: "Rate the answer",
  revision: "Make the answer better",
  spans: "Mark what is wrong",
  steps: "Check the steps",
  thumb: "Good or bad?",
};
