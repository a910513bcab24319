/** Two short clips side by side: a comparison whose answers play. */

import { comparison } from "./comparison.js";

export function clips(task, desk) {
  const view = comparison(task, desk);
  const videos = view.panels.map((box) => box.querySelector("video")).filter(Boolean);
  let speed = 1;
  videos.forEach((video) => (video.muted = true));
  Promise.all(videos.map(isReady)).then(replay);

  function replay() {
    for (const video of videos) {
      video.currentTime = 0;
      video.playbackRate = speed;
      video.play().catch(() => null);
    }
  }

  function slower() {
    speed = speed > 0.3 ? speed / 2 : 1;
    videos.forEach((video) => (video.playbackRate = speed));
    desk.say(`Speed ${speed}`);
  }

  return {
    ...view,
    actions: { ...view.actions, replay, slower },
    missing: "Choose which clip is better first.",
  };
}

const isReady = (video) =>
  new Promise((resolve) => {
    if (video.readyState >= 3) resolve();
    video.addEventListener("canplay", resolve, { once: true });
    video.addEventListener("error", resolve, { once: true });
  });
